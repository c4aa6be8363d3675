"""Every fault of an upstream, on every metered endpoint, streamed or not, with many seeds."""
