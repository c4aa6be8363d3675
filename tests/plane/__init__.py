"""The data plane from socket to socket: a real client's connection, the chain, a simulated provider."""
