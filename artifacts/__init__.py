"""Bytes named by their hash: object store, archive of an upload, inspection of models, encodings and patches."""
