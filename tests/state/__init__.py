"""State: the Store and what stands on it."""
