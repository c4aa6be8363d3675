"""The cold plane's HTTP: the ops listener, the admin listener and its client.

Rules: aiohttp, in the supervisor's process, never in a worker. `ops` answers anyone and holds no secret; `admin` is
bound to loopback and demands its token. Both act through `Operated` and know nothing else of the supervisor.
"""
