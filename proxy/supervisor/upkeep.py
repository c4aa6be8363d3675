"""What is in force, and keeping the workers in step with the files.

Rules:
- Files are only ever replaced by good ones: a broken configuration, a damaged key file or a refusal by a worker
  leaves the last good state in force, and says so in the log, in `weir_config_valid` and in `weir status`.
- One reload at a time, and one for a change: whoever comes second, of who asks and the watching, finds it done.
  Keys made by `weir keys` are pushed on their own, without a reload.
- Whatever is watched was looked at before it was read, so that no change falls between reading and watching.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from proxy.admin.operated import Reloaded
from proxy.clients.keys import KeyFileError, KeyRecord, KeyStore, joined
from proxy.clients.oidc_keys import SigningKeys
from proxy.logs import Log
from proxy.supervisor import keyring, watch
from proxy.supervisor.cards import CardsError, prune
from proxy.supervisor.cold import ColdKeeper
from proxy.supervisor.fleet import Fleet, Orders
from proxy.supervisor.plan import Load, LoadError, Plan
from proxy.supervisor.shared_keys import SharedKeys
from proxy.supervisor.state import StatePlace
from proxy.supervisor.stepping import Stepping

Compile = Callable[[Path, str], Awaitable[Path]]
"""(home, price overrides) -> the file of compiled rate cards. Raises `CardsError`."""


class Upkeep:
    """The plan and the keys in force. `fleet` and `cold` are set once they are there, `state` once it has a place."""

    def __init__(self, plan: Plan, load: Load, compile: Compile, log: Log) -> None:
        self.plan = plan
        self.keys_valid = True
        self.loaded_at_s = time.time()
        self.reloads = 0
        self.failures = 0
        self.fleet: Fleet | None = None
        self.cold: ColdKeeper | None = None
        self.state: StatePlace | None = None
        self.store = KeyStore(plan.home)
        self.stepping = Stepping(plan.home, socket.gethostname(), log)
        self.stepping.adopt(plan.guarded)
        self.signing = SigningKeys(plan.home, lambda: self.plan.issuers, self._tell_signing, log)
        self.shared: SharedKeys | None = None
        self._made: list[KeyRecord] = []
        self._load = load
        self._compile = compile
        self._log = log
        self._broken: tuple[Path, ...] = ()
        self._one_at_a_time = asyncio.Lock()
        self._last = Reloaded(True, plan.hash, False, warnings=plan.warnings)
        self._files = watch.Files(self._watched)
        self._key_file = watch.Files(lambda: [self.store.path])

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the files as they were read last aren't in force; empty where they are."""
        return self._last.problems

    @property
    def keys(self) -> tuple[KeyRecord, ...]:
        """The keys that open the proxy."""
        return tuple(key for key in self._all_keys(self.plan) if key.role is None)

    @property
    def admin_keys(self) -> tuple[KeyRecord, ...]:
        """The keys that open the admin listener."""
        return tuple(key for key in self._all_keys(self.plan) if key.role is not None)

    @property
    def made(self) -> Sequence[KeyRecord]:
        """What stands in `keys.json`, the revoked too."""
        return self._made

    def _all_keys(self, plan: Plan) -> tuple[KeyRecord, ...]:
        return keyring.merged(plan.declared_keys, self._made, plan.inherit)

    def _tell_signing(self, signing: Mapping[str, list[dict[str, Any]]]) -> None:
        if self.fleet is not None:
            self.fleet.tell_signing(signing)
            self._log.info("public keys changed", issuers={name: len(keys) for name, keys in signing.items()})

    def adopt_keys(self, theirs: Sequence[KeyRecord]) -> None:
        """Keys that another host tells of: in force at once."""
        made = joined(self._made, theirs)
        if made != self._made:
            self._made = made
            self._tell_keys()
            self._log.info("keys changed", keys=len(self.keys), by="another host")

    def _tell_keys(self) -> None:
        keys = self.keys
        if self.fleet is not None and keys != self.fleet.orders.keys:
            self.fleet.tell_keys(keys)

    async def read_keys(self) -> None:
        """Read `keys.json`. Raises `KeyFileError`."""
        self._made = await asyncio.to_thread(self.store.list)

    async def orders(self, plan: Plan) -> Orders:
        """What the workers are told under this plan."""
        before = self.fleet.orders if self.fleet is not None else None
        return Orders(
            configuration=self.stepping.applied(plan.text, plan.guarded),
            keys=tuple(key for key in self._all_keys(plan) if key.role is None),
            cards=await self._cards(plan, before.cards if before is not None else None),
            home=str(plan.home),
            bypass=before is not None and before.bypass,
            state=self.state,
            signing=self.signing.current(),
        )

    async def reload(self, why: str, *, asked: bool = True) -> Reloaded:
        """Load the files and hand them to all workers; anything wrong keeps the old ones in force.

        Files that are as they were read last are left alone; what was wrong is tried again for whoever asks.
        """
        async with self._one_at_a_time:
            if self.fleet is None or self.fleet.draining:
                return Reloaded(False, self.plan.hash, False, ("the proxy isn't serving",))
            done = self._last.ok and self.fleet.orders.cards is not None
            if not await self._files.news() and (done or not asked):
                if asked:
                    self._log.info("nothing to reload", why=why, hash=self.plan.hash)
                return msgspec.structs.replace(self._last, changed=False)
            try:
                plan = await asyncio.to_thread(self._load)
            except LoadError as error:
                self._broken = error.watched
                return self._refuse(why, error.problems)
            except Exception as error:  # a fault in a checker must not take the proxy down
                return self._refuse(why, (repr(error),))
            orders = await self.orders(plan)
            if refusals := await self.fleet.configure(orders):
                return self._refuse(why, tuple(refusals))
            if orders.cards:
                await asyncio.to_thread(prune, plan.home, Path(orders.cards))
            return self._adopt(why, plan)

    async def enforce(self) -> None:
        """Give the workers the configuration again, as policies that stepped back leave it."""
        async with self._one_at_a_time:
            if self.fleet is None or self.fleet.draining:
                return
            text = self.stepping.applied(self.plan.text, self.plan.guarded)
            for problem in await self.fleet.configure(replace(self.fleet.orders, configuration=text)):
                self._log.error("a policy's step isn't in force", problem=problem)

    async def follow_files(self) -> None:
        """Reload whenever a file of the configuration changes; until cancelled."""
        await self._follow(self._files, self._files_changed)

    async def follow_keys(self) -> None:
        """Push the keys whenever `keys.json` changes; until cancelled."""
        await self._follow(self._key_file, self._keys_changed)

    def _watched(self) -> tuple[Path, ...]:
        return (*self.plan.watched, *self._broken)

    async def _follow(self, files: watch.Files, act: Callable[[], Awaitable[None]]) -> None:
        async for _ in files.changes():
            try:
                await act()
            except Exception as error:  # a fault here must not end the watching
                self._log.error("a changed file wasn't taken up", error=repr(error))

    async def _files_changed(self) -> None:
        await self.reload("files changed", asked=False)

    async def _keys_changed(self) -> None:
        await self._key_file.news()
        try:
            await self.read_keys()
        except KeyFileError as error:
            self.keys_valid = False
            self._log.error("keys are damaged; the last good ones stay in force", reason=str(error))
            return
        self.keys_valid = True
        self._tell_keys()
        self._log.info("keys changed", keys=len(self.keys))
        if self.shared is not None:
            self.shared.changed()

    async def _cards(self, plan: Plan, before: str | None) -> str | None:
        if before is not None and plan.prices == self.plan.prices:
            return before
        try:
            return str(await self._compile(plan.home, plan.prices))
        except (CardsError, OSError) as error:
            self._log.error("rate cards", reason=str(error), effect="old prices" if before else "costs are unpriced")
            return before

    def _adopt(self, why: str, plan: Plan) -> Reloaded:
        changed = plan.hash != self.plan.hash
        later = self.plan.needs_restart(plan)
        self.plan = replace(plan, **{name: getattr(self.plan, name) for name in later})
        self.stepping.adopt(plan.guarded)
        if self.cold is not None:
            self.cold.tell(plan.accounts, plan.keep)
        self._broken = ()
        self.signing.wake()
        self.reloads += 1
        self.loaded_at_s = time.time()
        self._log.form, self._log.level = plan.log_form, plan.log_level
        warnings = (*plan.warnings, *(f"{name}: takes effect at the next start" for name in later))
        for warning in warnings:
            self._log.warning("configuration", problem=warning)
        self._log.info("reloaded", why=why, hash=plan.hash, changed=changed)
        self._last = Reloaded(True, plan.hash, changed, warnings=warnings)
        return self._last

    def _refuse(self, why: str, problems: tuple[str, ...]) -> Reloaded:
        self.failures += 1
        for problem in problems:
            self._log.error("configuration", problem=problem)
        self._log.error("reload refused; the last good configuration stays in force", why=why, hash=self.plan.hash)
        self._last = Reloaded(False, self.plan.hash, False, problems)
        return self._last
