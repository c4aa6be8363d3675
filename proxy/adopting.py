"""A configuration as a worker takes it over: in small steps (`proxy.gently`).

Rules:
- What is as it was told last (the deployment, the teams, an entry of the chain) is the object that it was, with all
  that was made of it: a reload costs what it changes.
- A step is one entry of the chain, or one file.
- The result is what `Configuration.model_validate_json` makes of the whole text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from proxy.config import Configuration, DeploymentFile, Honour, PolicyEntry, TeamsFile
from proxy.gently import Steps, gently

_PARTS: Final[dict[str, type[BaseModel]]] = {"deployment": DeploymentFile, "teams": TeamsFile, "honour": Honour}


class Adopting:
    """Remembers the parts of the last configuration, by the JSON that told them."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._known: dict[tuple[type[BaseModel], bytes], Any] = {}

    async def take(self, text: str) -> Configuration:
        """The configuration of this text. Raises `pydantic.ValidationError`."""
        return await gently(self._taking(text), self._clock)

    def _taking(self, text: str) -> Steps[Configuration]:
        told = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        entries = msgspec.json.decode(told.pop("policies", b"[]"), type=list[msgspec.Raw])
        before, self._known = self._known, {}
        parts: dict[str, Any] = {}
        for name, raw in told.items():
            parts[name] = self._part(name, bytes(raw), before)
            yield
        policies = []
        for raw in entries:
            entry = self._model(PolicyEntry, bytes(raw), before)
            entry.predicate  # noqa: B018  # compiled now, not when the chains are swapped
            policies.append(entry)
            yield
        return Configuration.model_validate({**parts, "policies": tuple(policies)})

    def _part(self, name: str, raw: bytes, before: dict[tuple[type[BaseModel], bytes], Any]) -> Any:
        model = _PARTS.get(name)
        if model is None or raw == b"null":
            return msgspec.json.decode(raw)
        return self._model(model, raw, before)

    def _model(self, model: type[BaseModel], raw: bytes, before: dict[tuple[type[BaseModel], bytes], Any]) -> Any:
        found = before.get((model, raw))
        if found is None:
            found = model.model_validate_json(raw)
        self._known[model, raw] = found
        return found
