"""Cascades, measured. Where work is spread over processes each has one thread: this is said before numpy is loaded."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
