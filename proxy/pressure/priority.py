"""Whose requests are refused last: from who asks to a class.

Pure. The class follows from the key (its id, project, team, own tags) by the deployment file; a client may ask for
another by `x-weir-priority` as far as the policy file lets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from proxy.config import globs
from proxy.config.overload import Callers, Priorities, Priority
from proxy.config.policies import Chosen
from proxy.exchange import Identity

CLASSES: Final[tuple[Priority, ...]] = ("high", "normal", "low")
NORMAL: Final = 1
LOW: Final = 2


class Ranks:
    """From an identity to its class, as an index of `CLASSES`."""

    def __init__(self, priorities: Priorities) -> None:
        self._tests = [
            (rank, _belongs(callers)) for rank, callers in ((0, priorities.high), (2, priorities.low)) if _any(callers)
        ]
        self.high = _any(priorities.high)

    def of(self, identity: Identity, wished: Priority | None = None, honoured: Chosen = "none") -> int:
        """The class; `wished` is what the client asked for, `honoured` how far it may choose."""
        rank = next((rank for rank, belongs in self._tests if belongs(identity)), NORMAL)
        if wished is None or honoured == "none":
            return rank
        return CLASSES.index(wished) if honoured == "any" else max(rank, CLASSES.index(wished))


def _any(callers: Callers) -> bool:
    return any(getattr(callers, name) is not None for name in Callers.model_fields)


def _belongs(callers: Callers) -> Callable[[Identity], bool]:
    names = {name: globs(values) for name in ("key", "project", "team") if (values := getattr(callers, name))}
    tags = [(name, globs([value])) for name, _, value in (tag.partition("=") for tag in callers.tag or ())]

    def belongs(identity: Identity) -> bool:
        own: Mapping[str, str] = identity.tags
        return any(matches(getattr(identity, name)) for name, matches in names.items()) or any(
            matches(own.get(name)) for name, matches in tags
        )

    return belongs
