"""The data plane's surroundings, for attacks on the wire."""

from tests.plane.conftest import cards, event_loop_policy, serve, simulator

__all__ = ["cards", "event_loop_policy", "serve", "simulator"]
