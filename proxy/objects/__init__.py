"""What stays at an upstream after an answer: whose it is, and what it costs in the end."""
