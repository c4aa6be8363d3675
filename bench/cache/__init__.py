"""What the semantic cache brings, and how often it is wrong, over HTTP; see `python -m bench.cache --help`."""
