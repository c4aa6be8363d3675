"""Each policy, by its pure parts and on the wire."""
