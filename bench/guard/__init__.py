"""The guard that CI runs: does a request still cost what it did, and is the tail still near the reference's?

The deterministic part counts what one request makes the data plane do, over transports in memory: the same number every
time, on every machine with the same Python. The paired part measures p99 beside a reference and fails only beyond
doubt.
"""
