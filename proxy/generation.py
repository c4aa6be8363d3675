"""All that follows from one configuration, swapped whole at a reload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from proxy.chain import Chain
from proxy.clients.identity import Keys, Open
from proxy.config import Configuration, globs
from proxy.cors import CorsRules
from proxy.dispatch import Dispatch
from proxy.exchange import Identity, Spawn
from proxy.models import Catalogue
from proxy.pressure.priority import Ranks

T = TypeVar("T")


class Generation:
    """A configuration as a data plane acts on it. An exchange keeps the one that it began with."""

    def __init__(
        self,
        configuration: Configuration,
        chain: Chain,
        dispatch: Dispatch,
        keys: Open | Keys,
        spawn: Spawn,
        on_end: Callable[..., object],
    ) -> None:
        deployment = configuration.deployment
        self.configuration = configuration
        self.chain = chain
        self.dispatch = dispatch
        self.identities = keys
        self.limits = deployment.limits
        self.heartbeat_s = deployment.heartbeat_s
        self.catalogue = Catalogue(configuration)
        self.ranks = Ranks(deployment.overload.priorities)
        self.cors = CorsRules(deployment.cors) if deployment.cors else None
        self.on_end = partial(on_end, configuration.policy_hash)
        self._spawn = spawn
        self._allowed: dict[tuple[str, ...], Callable[[str], bool]] = {}

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Background work of an exchange: it uses the chain as long as it runs."""
        self.chain.running += 1
        task = self._spawn(work, name)
        task.add_done_callback(lambda _: self.chain.left())
        return task

    def may_use(self, identity: Identity, model: str) -> bool:
        """Whether the key's own list of models has this one."""
        assert identity.models is not None
        matches = self._allowed.get(identity.models)
        if matches is None:
            matches = self._allowed[identity.models] = globs(list(identity.models))
        return matches(model)
