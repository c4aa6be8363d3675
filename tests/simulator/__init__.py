"""The simulator, met on the wire, by the SDK, and by its parts."""
