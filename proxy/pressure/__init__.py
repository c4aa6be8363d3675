"""How much a worker takes on, and whose requests are refused last."""
