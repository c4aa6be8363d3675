"""What one call for many costs and brings: `make bench-batch`."""
