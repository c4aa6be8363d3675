"""The supervisor's life: start everything in order, answer for it, end it in order.

Rules:
- One supervisor a home: the second is refused, wherever it listens. The lock ends with the process that has it.
- Order of the start: home, listeners, keys, rate cards, state and workers, then ready. What fails before that is one
  line and status 1.
- SIGTERM or SIGINT drains, the second one ends now, SIGHUP reloads.
- All state is in the workers and in the home directory: a supervisor that is killed leaves the workers serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy import __version__, journal
from proxy.admin import api, ops, running, token
from proxy.admin.guard import Admitted
from proxy.admin.operated import DeploymentStatus, Reloaded, Status, WorkerStatus
from proxy.admin.site import Site
from proxy.audit import AuditLog
from proxy.clients.keys import KeyFileError
from proxy.cold import Settings
from proxy.exposition import Facts, WorkerFacts, exposition
from proxy.ledger.facts import LedgerFacts
from proxy.ledger.spool import host_id
from proxy.logs import Log
from proxy.metrics import Gauges, Snapshot
from proxy.operating import Operating, operate
from proxy.state.opening import has_process
from proxy.state.process import OwnedError, lock
from proxy.state.protocol import Store
from proxy.supervisor import keyring, listeners
from proxy.supervisor.cards import compiled, prune
from proxy.supervisor.cold import ColdKeeper
from proxy.supervisor.counting import Counting, asks
from proxy.supervisor.fleet import Fleet, StartError
from proxy.supervisor.lookups import Lookups
from proxy.supervisor.plan import Load, Plan
from proxy.supervisor.proc import usage_of
from proxy.supervisor.process import Worker
from proxy.supervisor.recovery import Recovery
from proxy.supervisor.rolling import Rolling
from proxy.supervisor.shared_keys import SharedKeys
from proxy.supervisor.state import STATE, StateError, StateKeeper
from proxy.supervisor.takeover import NOTICED_S, RETRY_S, Takeover
from proxy.supervisor.upkeep import Compile, Upkeep
from proxy.tracing import export as traces

RECOVERY_BOUND_S = 2.0
OPERATING_BOUND_S = 20.0  # an operator waits longer than a request
WORKER = (sys.executable, "-m", "proxy.worker")

Announce = Callable[[Sequence[str]], None]
"""Called once with the data addresses as bound."""


class Supervisor:
    """One run of `weir serve`. `load` reads the files again; `announce` tells the person who started it.

    With `container`, keys that are required and don't exist are made: one, printed once.
    """

    def __init__(
        self,
        plan: Plan,
        load: Load,
        *,
        log: Log,
        announce: Announce = lambda addresses: None,
        command: Sequence[str] = WORKER,
        compile: Compile = compiled,
        container: bool = False,
        state_command: Sequence[str] = STATE,
    ) -> None:
        self.upkeep = Upkeep(plan, load, compile, log)
        self.log = log
        self._announce = announce
        self._command = command
        self._container = container
        self._state_command = state_command
        self._lookups = Lookups(plan.home, plan.ledger, self.upkeep.signing.ask)
        self._fleet: Fleet | None = None
        self._store: Store | None = None
        self._serving = False
        self._rolling = Rolling(log)
        self._started_s, self._started_at_s = time.monotonic(), time.time()
        self._end = asyncio.Event()
        self._end_now = asyncio.Event()
        self._sockets: dict[str, list[socket.socket]] = {"data": [], "ops": [], "admin": []}
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- start and end ------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to end. 0: all running exchanges were finished; 1: some were cut, or it couldn't start."""
        async with contextlib.AsyncExitStack() as stack:
            self._heed_signals(stack)
            try:
                await _unless(self._end, self._start(stack))
            except (StartError, StateError, listeners.ListenError, KeyFileError) as error:
                self.log.error("can't start", reason=str(error))
                return 1
            except OSError as error:  # a disk that is full, most of all
                where = error.filename or f"the home directory {self.upkeep.plan.home}"
                self.log.error("can't start", reason=f"{where}: {error.strerror or error}")
                return 1
            if self._serving:
                await self._end.wait()
            return 0 if await self._finish() else 1

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        plan = self.upkeep.plan
        stack.callback(os.close, self._take_home())
        stack.callback(self._close_sockets)
        takeover = Takeover(plan.home, self.log)
        stack.callback(takeover.close)
        await self._listen(takeover)
        self.upkeep.stepping.read()
        await self.upkeep.read_keys()
        await self._first_key()
        self._announce(self._addresses("data"))
        for warning in plan.warnings:
            self.log.warning("configuration", problem=warning)
        await self._serve_cold(stack)
        stack.push_async_callback(self._lookups.close)
        self._keep_cold(stack)
        await self.upkeep.signing.begin()
        state, lives = await self._share(stack)
        orders = await self.upkeep.orders(plan)
        fleet = Fleet(
            self._command,
            self._sockets["data"],
            plan.workers,
            orders,
            log=self.log,
            lookup=self._lookups.answer,
            lives=lives,
        )
        stack.push_async_callback(fleet.stop)
        self._fleet = self.upkeep.fleet = fleet
        await _all(state.start(), fleet.start())
        self._serving = True
        self._record(stack)
        counting = Counting(plan.home, lambda: asks(self.upkeep.plan.policies), self.log)
        stack.push_async_callback(counting.process.stop)
        stack.push_async_callback(self._end_tasks)
        self._spawn("follow files", self.upkeep.follow_files())
        self._spawn("follow keys", self.upkeep.follow_keys())
        self._spawn("follow issuers", self.upkeep.signing.follow())
        if self.upkeep.shared is not None:
            self._spawn("hear keys", self.upkeep.shared.follow())
            self._spawn("tell keys", self.upkeep.shared.tell())
        self._spawn("guardrails", self.upkeep.stepping.follow(fleet.arms, self.upkeep.enforce, self._store))
        if lives is not None:
            self._spawn("recover holds", lives.follow())
        self._spawn("count tokens", counting.follow())
        self._spawn("take over", takeover.follow(plan.drain_s, plan.drain_idle_s))
        if orders.cards:
            await asyncio.to_thread(prune, plan.home, Path(orders.cards))
        self.log.info("ready", listen=self._addresses("data"), workers=plan.workers, hash=plan.hash)

    async def _share(self, stack: contextlib.AsyncExitStack) -> tuple[StateKeeper, Recovery | None]:
        """What workers share, and who closes what the dead held of it. Both outlive the workers."""
        plan = self.upkeep.plan
        state = StateKeeper(plan.state, plan.home, self.log, self._state_command)
        stack.push_async_callback(state.stop)
        if not plan.state:
            return state, None
        place = self.upkeep.state = state.place
        self._store = place.open(OPERATING_BOUND_S, self.log)
        stack.push_async_callback(self._store.aclose)
        store = place.open(RECOVERY_BOUND_S, self.log)
        stack.push_async_callback(store.aclose)
        host = await asyncio.to_thread(host_id, plan.home)
        if not has_process(plan.state):
            upkeep = self.upkeep
            upkeep.shared = SharedKeys(
                self._store, host, upkeep.store, upkeep.adopt_keys, lambda: upkeep.made, self.log
            )
        recovery = Recovery(plan.home, host, store, self.log)
        stack.push_async_callback(recovery.look)
        return state, recovery

    async def _finish(self) -> bool:
        """Drain, or stop at the second signal; whether everything could finish."""
        if self._fleet is None or not self._serving:
            return True
        self._fleet.draining = True
        # Each worker has its own copy of the listeners: once the last is closed, new connections are refused.
        for sock in self._sockets["data"]:
            sock.close()
        timeout_s = self.upkeep.plan.drain_s
        self.log.info("draining", timeout_s=timeout_s)
        finished = await _unless(self._end_now, self._fleet.drain(timeout_s, self.upkeep.plan.drain_idle_s))
        self.log.info("ended", finished=bool(finished))
        return bool(finished)

    def _heed_signals(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.drain)
        loop.add_signal_handler(signal.SIGINT, self.drain)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn("reload", self.reload("SIGHUP")))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            stack.callback(loop.remove_signal_handler, number)

    def _take_home(self) -> int:
        """A descriptor whose lock keeps every other supervisor out of the home directory, until it is closed."""
        home = self.upkeep.plan.home
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StartError(f"can't make the home directory {home}: {error.strerror}") from error
        if not os.access(home, os.W_OK | os.X_OK):
            raise StartError(f"can't write to the home directory {home}; set `home:` or WEIR_HOME")
        try:
            return lock(home / "running.lock")
        except OwnedError:
            now = running.running_in(home)
            who = "another Weir" if now is None else f"process {now.pid}, which serves {', '.join(now.listen)}"
            raise StartError(
                f"the home directory {home} is in use by {who}; end that (`weir drain`), or give this one a home of "
                "its own by --home, `home:` or WEIR_HOME"
            ) from None

    async def _listen(self, takeover: Takeover) -> None:
        """Bind, or take over what a supervisor that died has left to its workers: they notice that within moments."""
        until_s = time.monotonic() + (NOTICED_S if running.running_in(self.upkeep.plan.home) is None else 0.0)
        while True:
            await takeover.look()
            try:
                self._bind(takeover.listeners(self.upkeep.plan.listen))
            except listeners.ListenError as error:
                if not error.workers or time.monotonic() >= until_s:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _bind(self, data: list[socket.socket]) -> None:
        plan = self.upkeep.plan
        public = [address for address in plan.listen if not listeners.is_loopback(address)]
        if public and not plan.keys_required:
            raise StartError(f"{public[0]} is reachable by others: set `keys: required`, or listen on 127.0.0.1")
        if plan.admin is not None and not listeners.is_loopback(plan.admin):
            raise StartError(f"the admin listener must be on loopback, not on {plan.admin}")
        self._sockets["data"] = data or listeners.bind(plan.listen)
        for name, address in (("ops", plan.ops), ("admin", plan.admin)):
            try:
                self._sockets[name] = listeners.bind([address] if address else [])
            except listeners.ListenError as error:  # nobody chose these: say how one does
                message = f"{error}, by `{name}:` or WEIR_{name.upper()}"
                raise listeners.ListenError(message, workers=error.workers) from error

    def _close_sockets(self) -> None:
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()

    async def _first_key(self) -> None:
        plan = self.upkeep.plan
        if plan.keys_required and self._container:
            if secret := await asyncio.to_thread(keyring.bootstrap, self.upkeep.store, plan.declared_keys):
                print(f"weir made the first key, shown this once: {secret}", flush=True)
            await self.upkeep.read_keys()
        if plan.keys_required and not self.upkeep.keys:
            self.log.warning("keys are required and there is none", hint="make one by `weir keys create`")

    async def _serve_cold(self, stack: contextlib.AsyncExitStack) -> None:
        secret = await asyncio.to_thread(token.load_or_make, self.upkeep.plan.home)
        upkeep = self.upkeep
        admitted = Admitted(
            secret,
            lambda: upkeep.admin_keys,
            lambda: upkeep.plan.issuers,
            upkeep.signing.current,
            upkeep.signing.ask,
        )
        audit = AuditLog(upkeep.plan.home)
        for application, sockets in (
            (ops.application(self), self._sockets["ops"]),
            (api.application(self, admitted, upkeep.store, audit, self.log), self._sockets["admin"]),
        ):
            if sockets:
                site = Site(application, sockets)
                stack.push_async_callback(site.close)
                await site.start()

    def _keep_cold(self, stack: contextlib.AsyncExitStack) -> None:
        plan = self.upkeep.plan
        since = journal.sizes(plan.home) if traces.asked_for(os.environ) else None
        cold = ColdKeeper(plan.home, Settings(plan.ledger, plan.accounts, plan.keep, since), self.log)
        if cold.wanted:
            self.upkeep.cold = cold
            stack.push_async_callback(cold.stop)
            cold.keep()

    def _record(self, stack: contextlib.AsyncExitStack) -> None:
        now = running.Running(os.getpid(), self._addresses("data"), self._address("ops"), self._address("admin"))
        running.announce(self.upkeep.plan.home, now)
        stack.callback(running.withdraw, self.upkeep.plan.home)

    # -- what the listeners and signals ask for (`Operated`) ----------------------------------------------------------

    def ready(self) -> bool:
        """Started, at least one worker accepts, and not draining."""
        return self._serving and not self._end.is_set() and self._fleet is not None and self._fleet.ready > 0

    def drain(self) -> None:
        """The first time drain, the second time end now."""
        if self._end.is_set():
            self._end_now.set()
        self._end.set()

    def bypass(self, on: bool) -> None:
        """The kill switch: policies step aside in all workers, also in those that start later."""
        if self._fleet is not None:
            self._fleet.tell_bypass(on)
            self.log.warning("bypass", on=on)

    async def bring_back(self, policy: str) -> bool:
        """Switch on again what stepped back."""
        if not self.upkeep.stepping.resume(policy):
            return False
        await self.upkeep.enforce()
        return True

    async def reload(self, why: str) -> Reloaded:
        """Read the files again."""
        return await self.upkeep.reload(why)

    def restart(self) -> bool:
        """Replace the workers, one after the other; False where it isn't serving, or is at it already."""
        if self._fleet is None or not self._serving or self._end.is_set() or self._rolling.running:
            return False
        plan = self.upkeep.plan
        self._spawn("restart", self._rolling.begin(self._fleet, plan.drain_s, plan.drain_idle_s))
        return True

    def status(self) -> Status:
        """How it stands."""
        fleet, now_s = self._fleet, time.monotonic()
        upkeep = self.upkeep
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=now_s - self._started_s,
            ready=self.ready(),
            draining=self._end.is_set(),
            bypass=fleet is not None and fleet.orders.bypass,
            config_hash=upkeep.plan.hash,
            config_valid=not upkeep.problems,
            problems=upkeep.problems,
            home=str(upkeep.plan.home),
            listen=self._addresses("data"),
            ops=self._address("ops"),
            admin=self._address("admin"),
            workers_wanted=upkeep.plan.workers,
            workers=tuple(
                WorkerStatus(worker.index, worker.pid, worker.ready, worker.hash, now_s - worker.started_s)
                for worker in (fleet.workers if fleet is not None else ())
            ),
            restarts=fleet.restarts if fleet is not None else 0,
            keys=len(upkeep.keys),
            restarting=self._rolling.running,
            restart_problem=self._rolling.problem,
            replaced=self._rolling.replaced,
            deployments=tuple(
                DeploymentStatus(one.model, one.deployment, one.states, one.in_flight)
                for one in (fleet.standing() if fleet is not None else ())
            ),
            stepped_back=upkeep.stepping.standing,
        )

    async def metrics(self) -> bytes:
        """The text of `/metrics`."""
        snapshot = await self._fleet.sum() if self._fleet is not None else Snapshot()
        return exposition(snapshot, self._facts())

    async def explain(self, exchange: str, tenant: str | None) -> Mapping[str, Any] | None:
        """What happened to an exchange; None if unknown, or if it isn't this tenant's."""
        return await self._lookups.exchange(exchange, tenant)

    async def operate(self, use: str, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask a policy."""
        counted = await self._fleet.sum() if self._fleet is not None else Snapshot()
        return await operate(use, operation, arguments, Operating(self._store, counted, self.upkeep.plan.policies))

    # -- small parts --------------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        status, upkeep, fleet = self.status(), self.upkeep, self._fleet
        now_s = time.monotonic()
        return Facts(
            started_at_s=self._started_at_s,
            workers=tuple(_facts_of(worker, now_s) for worker in (fleet.workers if fleet is not None else ())),
            workers_wanted=status.workers_wanted,
            restarts=status.restarts,
            draining=status.draining,
            bypass=status.bypass,
            config_hash=status.config_hash,
            config_valid=status.config_valid,
            config_loaded_at_s=upkeep.loaded_at_s,
            reloads=upkeep.reloads,
            reload_failures=upkeep.failures,
            keys=status.keys,
            keys_valid=upkeep.keys_valid,
            keys_shared=None if upkeep.shared is None else upkeep.shared.heard,
            issuers=upkeep.signing.facts(),
            stepped_back=tuple((one.policy, one.mode) for one in status.stepped_back),
            step_backs=upkeep.stepping.count,
            cards=(fleet.orders.cards or "").rpartition("/")[2] if fleet is not None else "",
            ledger=upkeep.cold.facts() if upkeep.cold is not None else LedgerFacts(),
        )

    def _addresses(self, kind: str) -> tuple[str, ...]:
        return tuple(listeners.name_of(sock) for sock in self._sockets[kind] if sock.fileno() >= 0)

    def _address(self, kind: str) -> str | None:
        return next(iter(self._addresses(kind)), None)

    def _spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _facts_of(worker: Worker, now_s: float) -> WorkerFacts:
    """What the kernel knows of a worker, and what it says of itself alone."""
    cpu_s, resident_bytes = usage_of(worker.pid)
    told = Gauges() if worker.snapshot is None else worker.snapshot.gauges
    return WorkerFacts(
        worker.index,
        worker.ready,
        now_s - worker.heard_s,
        cpu_s,
        resident_bytes,
        told.loop_lag_us / 1e6,
        told.exchange_limit,
        told.tasks,
    )


async def _all(*work: Coroutine[Any, Any, Any]) -> None:
    """Does all at once; the first that fails ends the others."""
    doing = [asyncio.create_task(one, name="start") for one in work]
    try:
        await asyncio.gather(*doing)
    finally:
        for task in doing:
            task.cancel()
        await asyncio.gather(*doing, return_exceptions=True)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, or None if the event comes first; then `work` is cancelled and over."""
    doing, waiting = asyncio.create_task(work, name="work"), asyncio.create_task(event.wait(), name="unless")
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else None
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)
