"""Who asks: keys, tokens, and what they say of a client."""
