"""What Weir costs, measured beside nginx and a bare aiohttp pass-through in one run. `README.md` says what each number
means.

Rules: subjects are separate processes pinned to one core, load and upstreams to another; every comparison is made in
interleaved rounds of one run and quoted as a ratio of medians; nothing here is imported by the proxy.
"""
