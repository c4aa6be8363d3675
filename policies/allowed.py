"""Which models a client may use, for policies that choose another one than it asked for.

Rules: a model counts as allowed only if the key's own list has it and no `allow` layer further out would have refused
it. Those further in say so themselves, when they are met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from policies import allow
from proxy.config import Configuration, globs
from proxy.config.conditions import Predicate
from proxy.exchange import Identity, Request
from proxy.matching import Matchable

_MOST: Final = 4096
Matches = Callable[[str | None], bool]


class Allowed:
    """For the policy `name` of a configuration."""

    def __init__(self, configuration: Configuration, name: str) -> None:
        self._outer: list[tuple[Predicate | None, allow.Rules]] = []
        for entry in configuration.policies:
            if entry.name == name:
                break
            if entry.use == "allow" and entry.mode == "on":
                rules = allow.Rules(allow.Config.model_validate(entry.options))
                self._outer.append((entry.compile(), rules))
        self._lists: dict[tuple[str, ...], Matches] = {}

    def may_use(self, request: Request, model: str) -> bool:
        """Whether whoever asked may be answered by this model."""
        if not self._listed(request.exchange.identity, model):
            return False
        for applies, rules in self._outer:
            met = applies is None or applies(Matchable(request))
            if met and rules.refusal(request.endpoint.name, model) is not None:
                return False
        return True

    def _listed(self, identity: Identity, model: str) -> bool:
        if identity.models is None:
            return True
        matches = self._lists.get(identity.models)
        if matches is None:
            matches = globs(identity.models)
            if len(self._lists) < _MOST:
                self._lists[identity.models] = matches
        return matches(model)
