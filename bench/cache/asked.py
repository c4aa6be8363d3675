"""A request of a stream, and what is right to answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: who asks what, and the name of the right answer. `scope` is False for what nobody should answer.

    `before`: the turns before the last one. `after`: what must have been asked before, from which it differs by a word.
    """

    text: str
    right: str
    tenant: str = "one"
    scope: bool = True
    before: tuple[str, ...] = ()
    after: str = ""

    @property
    def turns(self) -> tuple[str, ...]:
        """All turns, the client's and the model's in turn."""
        return (*self.before, self.text)
