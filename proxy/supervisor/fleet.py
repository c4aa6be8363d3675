"""The workers: kept at their number, told the same things, summed up.

Rules:
- Each slot has one task, which starts a worker, listens to it, and starts the next one when it dies. Only a draining
  fleet lets a slot go empty.
- A worker is replaced without a gap: its successor in the slot is ready before it is told to drain. One that can't
  get ready leaves the slot as it was.
- A worker that lived for `SETTLED_S` is replaced at once; one that dies young waits, twice as long each time
  (`backoff_s`).
- Nothing is ready until every slot was ready once: a worker that can't start at all is an error of the start
  (`StartError`), later it is only logged and tried again.
- What every worker must know is one `Orders` value. A new worker gets the current one; new orders stay only if no
  worker rejects them, else all go back to the ones before.
- Counters of dead workers stay in the sum.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from proxy.clients.keys import KeyRecord
from proxy.logs import LEVELS, Log
from proxy.metrics import DeploymentSeries, Snapshot, arms_of, merge, retire
from proxy.rollout.guardrail import Tally
from proxy.supervisor.process import Message, Worker, ending
from proxy.supervisor.state import StatePlace

READY_S = 60.0
CONFIGURED_S = 15.0
SETTLED_S = 10.0
START_ATTEMPTS = 3
LONGEST_BACKOFF_S = 30.0
STOP_S = 2.0
PORTION = 100
"""Keys that a worker reads in one step: a quarter of a millisecond."""


class StartError(Exception):
    """The workers can't be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What every worker must know. `configuration` is the JSON text, `cards` the path of the compiled rate cards."""

    configuration: str
    keys: tuple[KeyRecord, ...]
    cards: str | None
    home: str
    bypass: bool = False
    state: StatePlace | None = None
    signing: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def message(self, worker: Worker) -> dict[str, Any]:
        """The fields of `configure`, for this worker: its own holds' owner, and the keys that it doesn't know yet."""
        owner = worker.owner
        state = None if self.state is None else {"url": self.state.url, "socket": self.state.socket, "owner": owner}
        return {
            "configuration": self.configuration,
            **told_keys(worker, self.keys),
            "cards": self.cards,
            "home": self.home,
            "bypass": self.bypass,
            **({} if state is None else {"state": state}),
            **({"signing": self.signing} if self.signing else {}),
        }


def told_keys(worker: Worker, keys: tuple[KeyRecord, ...]) -> dict[str, Any]:
    """What tells this worker of a table of keys: what differs, since thousands would hold up its loop."""
    before, worker.keys = worker.keys, keys
    if before is None:
        return {"keys": _portions(keys)}
    if before == keys:
        return {}
    known, wanted = {key.sha256: key for key in before}, {key.sha256: key for key in keys}
    other = [key for hashed, key in wanted.items() if known.get(hashed) != key]
    return {
        "changed_keys": _portions(other),
        "gone_keys": [hashed for hashed in known if hashed not in wanted],
    }


def _portions(keys: Sequence[KeyRecord]) -> list[str]:
    """As JSON, in texts that a worker reads one after the other, with requests in between."""
    return [msgspec.json.encode(keys[at : at + PORTION]).decode() for at in range(0, len(keys), PORTION)]


Lookup = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""A worker's question -> its answer, or None."""


class Lives(Protocol):
    """Who wants to know which workers live, by the owners of their holds."""

    def begin(self, worker: int) -> str:
        """A worker starts: what its holds' owner is called."""

    def died(self, owner: str) -> None:
        """It has ended."""


def backoff_s(failures: int) -> float:
    """How long to wait before the next start after this many early deaths in a row."""
    return 0.0 if failures <= 0 else min(0.1 * 2 ** (failures - 1), LONGEST_BACKOFF_S)


class Fleet:
    """`size` workers that run `command` on `listeners`. First `start`, in the end `drain`."""

    def __init__(
        self,
        command: Sequence[str],
        listeners: Sequence[socket.socket],
        size: int,
        orders: Orders,
        *,
        log: Log,
        lookup: Lookup,
        lives: Lives | None = None,
    ) -> None:
        self.orders = orders
        self.size = size
        self.restarts = 0
        self.draining = False
        self._command = command
        self._listeners = listeners
        self._log = log
        self._lookup = lookup
        self._lives = lives
        self._workers: dict[int, Worker] = {}
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._coming: dict[Worker, asyncio.Future[str | None]] = {}  # successors, until they are ready
        self._leaving: set[Worker] = set()  # they have a successor, and drain
        self._changing = asyncio.Lock()  # orders, and who gets them
        self._lookups: set[asyncio.Task[None]] = set()
        self._retired = Snapshot()
        self._ready_once: set[int] = set()
        self._started: asyncio.Future[None] | None = None

    @property
    def workers(self) -> list[Worker]:
        """Those that run, by slot."""
        return [self._workers[index] for index in sorted(self._workers)]

    @property
    def everyone(self) -> list[Worker]:
        """Those that come and those that leave, too."""
        return [*self.workers, *self._coming, *self._leaving]

    @property
    def ready(self) -> int:
        """How many accept connections."""
        return sum(worker.ready for worker in self._workers.values())

    async def start(self) -> None:
        """Start all workers; returns when every one is ready. Raises `StartError`; then nothing is left running."""
        self._started = asyncio.get_running_loop().create_future()
        for index in range(self.size):
            self._slots[index] = asyncio.create_task(self._keep(index), name=f"worker slot {index}")
        try:
            await self._started
        except BaseException:
            await self.stop()
            raise

    async def configure(self, orders: Orders) -> list[str]:
        """Give all workers new orders; returns why some refused (then all keep the old)."""
        async with self._changing:
            before, self.orders = self.orders, orders
            answers = await asyncio.gather(*(self._configure_one(worker, orders) for worker in self.everyone))
            refused = [reason for reason in answers if reason is not None]
            if refused:
                self.orders = before
                await asyncio.gather(*(self._configure_one(worker, before) for worker in self.everyone))
            return refused

    async def replace(self, index: int, timeout_s: float, idle_s: float) -> str | None:
        """Put another worker in this slot, and let the one there drain; returns why that failed, if it did.

        The slot is never empty meanwhile. What outlasts `timeout_s` is cut.
        """
        before = await self._succeed(index)
        if isinstance(before, str):
            return before
        slot, worker = before
        if worker is not None:
            if not await self._drain_one(worker, timeout_s, idle_s):
                self._log.warning("exchanges outlasted the drain and were cut", worker=index, pid=worker.pid)
            await worker.end(STOP_S)
        else:
            slot.cancel()
        await asyncio.gather(slot, return_exceptions=True)
        return None

    async def _succeed(self, index: int) -> tuple[asyncio.Task[None], Worker | None] | str:
        """Starts a successor and waits until it is ready: the slot and worker before it, or why it isn't."""
        async with self._changing:
            if self.draining:
                return "the proxy is draining"
            first: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
            before = self._slots[index]
            slot = asyncio.create_task(self._keep(index, first), name=f"worker slot {index}")
            try:
                reason = await first
            except BaseException:
                slot.cancel()
                raise
            if reason is not None:
                await asyncio.gather(slot, return_exceptions=True)
                return reason
            return before, next((one for one in self._leaving if one.index == index), None)

    def tell_keys(self, keys: Sequence[KeyRecord]) -> None:
        """New virtual keys for all workers, at once."""
        self.orders = replace(self.orders, keys=tuple(keys))
        for worker in self.everyone:
            if not worker.channel.send("keys", **told_keys(worker, self.orders.keys)):
                worker.keys = None

    def tell_signing(self, signing: Mapping[str, list[dict[str, Any]]]) -> None:
        """Other public keys of issuers."""
        self.orders = replace(self.orders, signing=signing)
        self._tell("signing", keys=signing)

    def tell_bypass(self, on: bool) -> None:
        """The kill switch of the policies."""
        self.orders = replace(self.orders, bypass=on)
        self._tell("bypass", on=on)

    async def sum(self, timeout_s: float = 0.25) -> Snapshot:
        """Counters of all workers, dead ones included. A worker that doesn't answer in time counts as it last did."""
        await asyncio.gather(*(worker.ask("snapshot", ["metrics"], timeout_s) for worker in self.everyone))
        return merge([self._retired, *(worker.snapshot for worker in self.everyone if worker.snapshot is not None)])

    def standing(self) -> list[DeploymentSeries]:
        """How deployments stood when the workers last told, at most a second ago."""
        return merge([worker.snapshot for worker in self.workers if worker.snapshot is not None]).deployments

    def arms(self) -> dict[tuple[str, str, str], Tally]:
        """What guardrails look at, as the workers told at most a second ago; dead workers included."""
        return arms_of([self._retired, *(one.snapshot for one in self.everyone if one.snapshot is not None)])

    async def drain(self, timeout_s: float, idle_s: float = 0.0) -> bool:
        """Let the workers finish what runs, at most `timeout_s`; True if all could. None is replaced any more."""
        self.draining = True
        workers = self.everyone
        answers = await asyncio.gather(*(self._drain_one(worker, timeout_s, idle_s) for worker in workers))
        await self.stop()
        return all(answers)

    async def stop(self) -> None:
        """End all workers now."""
        self.draining = True
        for worker in self.everyone:
            worker.ready = False
        await asyncio.gather(*(worker.end(STOP_S) for worker in self.everyone))
        for slot in self._slots.values():
            slot.cancel()
        await asyncio.gather(*self._slots.values(), *self._lookups, return_exceptions=True)

    # -- one slot -----------------------------------------------------------------------------------------------------

    async def _keep(self, index: int, first: asyncio.Future[str | None] | None = None) -> None:
        """Run workers in this slot, one after the other; with `first`, only if the first gets ready: that tells."""
        failures = 0
        while not self.draining:
            began_s = time.monotonic()
            was_ready, how = await self._run_one(index, first)
            if first is not None and not first.done():
                first.set_result(f"worker {index} ended before it was ready: {how}")
            if self.draining or (first is not None and first.result() is not None) or self._succeeded(index):
                return
            failures = 0 if was_ready and time.monotonic() - began_s >= SETTLED_S else failures + 1
            if failures >= START_ATTEMPTS and not was_ready:
                self._fail(f"worker {index} ended {failures} times before it was ready: {how}")
            self.restarts += 1
            delay_s = backoff_s(failures - 1)
            self._log.error("worker died", worker=index, **how, restarted_in_s=delay_s, was_ready=was_ready)
            await asyncio.sleep(delay_s)

    def _succeeded(self, index: int) -> bool:
        """Whether the running task is no longer the slot's."""
        return self._slots[index] is not asyncio.current_task()

    async def _run_one(self, index: int, first: asyncio.Future[str | None] | None) -> tuple[bool, dict[str, Any]]:
        """One life of one worker: whether it was ever ready, and how it ended."""
        try:
            worker = await Worker.start(self._command, index, self._listeners)
        except OSError as error:
            return False, {"error": str(error)}
        if self._lives is not None:
            worker.owner = self._lives.begin(index)
        if first is not None and not first.done():
            self._coming[worker] = first
        elif not self._succeeded(index):
            self._workers[index] = worker
        overdue = asyncio.get_running_loop().call_later(READY_S, self._overdue, worker)
        was_ready = False
        try:
            worker.channel.send("configure", **self.orders.message(worker))
            async for message in worker.channel:
                worker.heard(message)
                was_ready = was_ready or worker.ready
                self._act(worker, message)
            # A worker that has closed its channel but lives can't be led any more.
            await worker.end(STOP_S)
            return was_ready, ending(await asyncio.shield(worker.ended))
        finally:
            overdue.cancel()
            worker.kill()
            worker.gone()
            if self._workers.get(index) is worker:
                del self._workers[index]
            self._coming.pop(worker, None)
            self._leaving.discard(worker)
            if self._lives is not None:
                worker.ended.add_done_callback(lambda ended: self._over(worker))
            if worker.snapshot is not None:
                self._retired = merge([self._retired, retire(worker.snapshot)])

    def _over(self, worker: Worker) -> None:
        assert self._lives is not None
        self._lives.died(worker.owner)

    def _act(self, worker: Worker, message: Message) -> None:
        match message["type"]:
            case "ready":
                self._log.info("worker ready", worker=worker.index, pid=worker.pid)
                if (first := self._coming.pop(worker, None)) is not None:
                    self._swap(worker, first)
                self._ready_once.add(worker.index)
                if self._started and not self._started.done() and len(self._ready_once) == self.size:
                    self._started.set_result(None)
            case "rejected":
                self._log.error("worker refuses the configuration", worker=worker.index, reason=message.get("message"))
                self._fail(str(message.get("message")))
                if (first := self._coming.pop(worker, None)) is not None:
                    first.set_result(str(message.get("message")))
                    worker.kill()
            case "log":
                self._write(worker, message)
            case "lookup":
                task = asyncio.create_task(self._answer(worker, message), name=f"look-up for worker {worker.index}")
                self._lookups.add(task)
                task.add_done_callback(self._lookups.discard)

    def _swap(self, worker: Worker, first: asyncio.Future[str | None]) -> None:
        """A successor is ready: it has the slot, and so has the task that leads it, which is the running one."""
        slot = asyncio.current_task()
        assert slot is not None
        self._slots[worker.index] = slot
        before = self._workers.get(worker.index)
        if before is not None:
            self._leaving.add(before)
        self._workers[worker.index] = worker
        first.set_result(None)

    def _write(self, worker: Worker, message: Message) -> None:
        level = message.get("level")
        fields = message.get("fields")
        self._log.write(
            level if level in LEVELS else "error",
            str(message.get("event")),
            {**(fields if isinstance(fields, dict) else {}), "worker": worker.index},
        )

    async def _answer(self, worker: Worker, message: Message) -> None:
        try:
            record = await self._lookup(message)
        except Exception as error:  # the client waits: an answer without a record beats none
            self._log.error("look-up failed", kind=message.get("kind"), error=repr(error))
            record = None
        worker.channel.send("answer", id=message.get("id"), record=record)

    def _overdue(self, worker: Worker) -> None:
        if not worker.ready:
            self._log.error("worker isn't ready in time", worker=worker.index, pid=worker.pid, after_s=READY_S)
            worker.kill()

    def _fail(self, reason: str) -> None:
        if self._started is not None and not self._started.done():
            self._started.set_exception(StartError(reason))

    # -- all of them --------------------------------------------------------------------------------------------------

    def _tell(self, type: str, **fields: Any) -> None:
        for worker in self.everyone:
            worker.channel.send(type, **fields)

    async def _configure_one(self, worker: Worker, orders: Orders) -> str | None:
        """None if accepted, or if the worker died of something else meanwhile (its successor gets these orders)."""
        answer = await worker.ask("configure", ["configured", "rejected"], CONFIGURED_S, **orders.message(worker))
        if answer is None or answer["type"] == "rejected":
            worker.keys = None  # whether it took them isn't certain
        if answer is not None:
            return str(answer.get("message")) if answer["type"] == "rejected" else None
        return None if worker.channel.closed else f"worker {worker.index} didn't answer within {CONFIGURED_S:g} s"

    async def _drain_one(self, worker: Worker, timeout_s: float, idle_s: float) -> bool:
        if worker.channel.closed:
            return True
        answer = await worker.ask("drain", ["drained"], timeout_s + 0.5, timeout_s=timeout_s, idle_s=idle_s)
        if answer is None:
            return worker.process.poll() == 0
        return answer.get("finished") is not False
