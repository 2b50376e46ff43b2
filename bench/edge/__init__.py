"""The edge beside nginx, plain aiohttp and granian on one machine: ``make bench-edge``.

A case is a kind of request and the peers that answer it (`cases`). In each round every peer is measured in turn, so
that whatever the machine does besides touches all of them alike; what is told are medians over the rounds, their
spread, and ratios between peers of one round (`figures`). Servers have one core, the load has another (`cores`).
Everything runs as a user would run it: processes, settings, a real Redis, manifests published by the project's own
code (`site`).
"""
