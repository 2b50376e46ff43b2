"""A population of devices for locust: `population` and `load` are arithmetic, the other files are run by locust."""
