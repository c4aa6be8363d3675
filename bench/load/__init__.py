"""Load generators. Each sends the fixed payloads to one URL and says what it saw; none knows what stands behind the
URL.
"""
