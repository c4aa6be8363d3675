"""What forwarding costs: CPU, latency, memory and open streams of Weir beside nginx, in interleaved rounds of one
run.
"""
