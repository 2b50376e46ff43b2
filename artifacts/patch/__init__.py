"""Patches: blobs that make an artifact from the one that a device has."""
