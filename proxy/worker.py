"""A worker process: `python -m proxy.worker --control FD --listen FD[,FD…] --index N`.

It inherits its listening sockets and one end of a socket pair; it binds nothing and reads no configuration file. What
the supervisor says (`proxy.control`) is all it knows. If the supervisor dies, it serves on with what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import itertools
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from proxy import collecting
from proxy.adopting import Adopting
from proxy.clients.keys import KeyRecord
from proxy.config import Configuration
from proxy.config.deployment import DeploymentFile
from proxy.config.limits import Timeouts
from proxy.control import Channel
from proxy.dataplane import DataPlane
from proxy.gently import Steps, gently
from proxy.journal import Journal
from proxy.metrics import Metrics
from proxy.orphan import handed_over
from proxy.pressure.gauge import Watch
from proxy.pressure.overload import UNLIMITED, Gate
from proxy.pressure.priority import CLASSES
from proxy.pricing import RateCards
from proxy.state.opening import COUNTING, open_store, socket_path
from proxy.state.protocol import Store
from proxy.tokens.remote import RemoteCounter
from proxy.wire.accepting import MOST, Accepting
from proxy.wire.call import ServerLimits
from proxy.wire.certificate import Certificate
from proxy.wire.connect import Connector, Resolver, origin_of
from proxy.wire.server import ServerConnection
from proxy.wire.shed import Shed
from proxy.wire.ticker import Ticker

METRICS_S: Final = 1.0
LESSONS_S: Final = 30.0
LOOKUP_S: Final = 2.0
_BACKLOG: Final = 4096
_RECORDS: Final = msgspec.json.Decoder(list[KeyRecord])
_RESERVED: Final = 64  # descriptors for whatever isn't a client's or an upstream's connection
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3


class Worker:
    """The data plane of one process, told what to do over its control channel."""

    def __init__(self, channel: Channel, listeners: list[socket.socket], index: int) -> None:
        self._channel = channel
        self._listeners = listeners
        self._index = index
        self._loop = asyncio.get_running_loop()
        self._ticker = Ticker(self._loop)
        self._resolver = Resolver()
        self._connector = Connector(self._resolver)
        self._certificate = Certificate()
        self._metrics = Metrics()
        self._adopting = Adopting()
        self._plane: DataPlane | None = None
        self._store: Store | None = None
        self._counter: RemoteCounter | None = None
        self._servers: list[asyncio.Server] = []
        self._accepting: Accepting | None = None
        self._connections: set[ServerConnection] = set()
        self._limits = ServerLimits()
        self._timeouts = Timeouts()
        self._most_connections = 4096
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._watch: Watch | None = None
        self._questions: dict[int, asyncio.Future[dict[str, Any] | None]] = {}
        self._numbers = itertools.count(1)
        self._stopped = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None
        self._remembering: asyncio.Task[None] | None = None
        self._home = Path()
        self._keys: dict[str, KeyRecord] = {}
        self._cards_path: str | None = None
        self._fsync_s = METRICS_S

    # --- what the supervisor says

    async def run(self) -> None:
        """Serves until told to stop."""
        reporting = self._loop.create_task(self._report(), name="metrics")
        syncing = self._loop.create_task(self._sync_journal(), name="journal")
        listening = self._loop.create_task(self._listen(), name="control")
        for number in (signal.SIGTERM, signal.SIGINT):  # only if somebody signals the worker itself
            self._loop.add_signal_handler(number, self._signalled)
        await self._stopped.wait()
        reporting.cancel()
        syncing.cancel()
        listening.cancel()
        await self._close()

    async def _listen(self) -> None:
        while True:
            async for message in self._channel:
                try:
                    await self._obey(message)
                except Exception as error:  # an order that fails must not end the worker, which has requests to answer
                    self._log("error", "order_failed", order=message["type"], error=type(error).__name__)
            # The supervisor is gone. Requests go on; the next one finds us.
            if self._drain is not None:
                return
            if not self._servers:  # it would never serve, and only keep its address from the next one
                self._stopped.set()
                return
            self._channel = await Channel.open(await handed_over(self._home, self._listeners))

    async def _obey(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "configure":
                await self._configure(message)
            case "keys" if self._plane is not None:
                self._plane.generations.set_keys(await gently(self._keys_of(message)))
            case "signing" if self._plane is not None:
                self._plane.generations.set_signing(message["keys"])
            case "bypass" if self._plane is not None:
                self._plane.bypass = bool(message["on"])
            case "snapshot":
                self._send_metrics()
            case "answer":
                waiting = self._questions.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message.get("record"))
            case "drain" if self._drain is None:
                draining = self._drained(float(message["timeout_s"]), float(message["idle_s"]))
                self._drain = self._loop.create_task(draining, name="drain")
            case "stop":
                self._stopped.set()

    async def _configure(self, message: dict[str, Any]) -> None:
        try:
            configuration = await self._adopting.take(message["configuration"])
            keys = await gently(self._keys_of(message))
            cards = await self._cards(message.get("cards"))
            await self._loop.run_in_executor(None, self._read_certificates, configuration.deployment)
            if self._plane is None:
                await self._start(configuration, keys, cards, Path(message["home"]), message.get("state"))
            else:
                await self._plane.reconfigure(configuration, keys, cards)
        except Exception as error:  # whatever is wrong with it, the old one goes on
            self._channel.send("rejected", message=f"{type(error).__name__}: {error}")
            if self._plane is None:
                self._stopped.set()
            return
        assert self._plane is not None
        self._cards_path = message.get("cards") or self._cards_path
        self._plane.bypass = bool(message.get("bypass"))
        self._plane.generations.set_signing(message.get("signing", {}))
        self._adopt(configuration)
        self._channel.send("configured", hash=configuration.hash)
        if not self._servers:
            await self._serve(configuration)
            self._channel.send("ready", pid=os.getpid())

    def _keys_of(self, message: dict[str, Any]) -> Steps[list[KeyRecord]]:
        """The table of keys as a message leaves it: all of them, or what is otherwise. A portion a step."""
        if "keys" in message:
            self._keys = {}
        for portion in (*message.get("keys", ()), *message.get("changed_keys", ())):
            self._keys.update((key.sha256, key) for key in _RECORDS.decode(portion))
            yield
        for hashed in message.get("gone_keys", ()):
            self._keys.pop(hashed, None)
        return [*self._keys.values()]

    def _read_certificates(self, deployment: DeploymentFile) -> None:
        """What the files are now: a reload may have no other reason than that they changed."""
        self._connector.reread()
        for upstream in deployment.upstreams.values():
            origin = origin_of(upstream.url, None if upstream.ca is None else str(upstream.ca))
            if origin.secure:
                self._connector.context(origin.ca)  # 35 ms for the system's, which requests don't wait for here
        if deployment.tls is not None:
            self._certificate.load(deployment.tls.cert, deployment.tls.key)

    async def _cards(self, path: str | None) -> RateCards | None:
        """The compiled rate cards, read off the loop: at a reload requests are running. None where they are those that
        are here: their name says what they hold."""
        if path is None or path == self._cards_path:
            return None
        data = await self._loop.run_in_executor(None, Path(path).read_bytes)
        return RateCards.from_bytes(data)

    # --- serving

    async def _start(
        self,
        configuration: Configuration,
        keys: list[KeyRecord],
        cards: RateCards | None,
        home: Path,
        state: dict[str, str] | None,
    ) -> None:
        self._home = home
        settings = configuration.deployment.journal
        self._fsync_s = settings.fsync_s
        journal = Journal(home / "journal", self._index, settings.segment_bytes, write_through=not settings.fsync_s)
        timeouts = configuration.deployment.timeouts
        shortest = min(
            timeouts.header_s, timeouts.body_idle_s, timeouts.total_s, timeouts.stream_idle_s, timeouts.slow_reader_s
        )
        self._ticker = Ticker(self._loop, max(0.01, min(0.25, shortest / 4)))
        if state is not None:
            self._store = open_store(state["url"], state["socket"])
        self._counter = RemoteCounter(socket_path(home, COUNTING), self._metrics.count)
        self._plane = DataPlane(
            configuration,
            journal=journal,
            metrics=self._metrics,
            keys=keys,
            cards=cards,
            connector=self._connector,
            ticker=self._ticker,
            env=os.environ,
            lookup=self._lookup,
            log=self._log,
            store=self._store,
            counter=self._counter,
            owner="" if state is None else state["owner"],
        )
        if self._store is not None:
            self._remembering = self._loop.create_task(self._remember(self._plane, self._store), name="lessons")
        self._watch = Watch(self._loop, self._plane.gate, self._pressure, self._accept)
        self._plane.generations.warm()

    def _adopt(self, configuration: Configuration) -> None:
        self._timeouts = configuration.deployment.timeouts
        self._most_connections = configuration.deployment.limits.connections
        assert self._watch is not None
        self._watch.adopt(configuration.deployment.overload, configuration.deployment.workers)
        self._limits = limits_of(configuration.deployment)

    async def _serve(self, configuration: Configuration) -> None:
        context = None if configuration.deployment.tls is None else self._certificate.context
        for listener in self._listeners:
            server = await self._loop.create_server(self._connection, sock=listener, backlog=_BACKLOG, ssl=context)
            self._servers.append(server)
        self._accepting = Accepting(self._loop, self._listeners, self._connection, context)
        collecting.settle()

    def _connection(self) -> asyncio.Protocol:
        assert self._plane is not None
        if not self._room(self._plane):
            self._metrics.count("connections_shed")
            return Shed()
        connection = ServerConnection(self._plane, self._limits, self._ticker, self._connections)
        connection.draining = self._plane.draining  # it was waiting when the listeners were closed
        return connection

    def _accept(self) -> None:
        """Takes in what waits before the door, so that the gate sees it. Where there is no room they are told so."""
        if self._accepting is not None and self._plane is not None:
            room = self._room(self._plane)
            self._accepting.take(min(MOST, room - self._accepting.opening) if room else MOST)

    def _room(self, plane: DataPlane) -> int:
        """How many more clients there is room for, so that no request is left without a descriptor for its upstream."""
        free = self._descriptors - _RESERVED
        most = min(self._most_connections, (free + 1) // 2, free - plane.generations.upstream_connections)
        return max(0, most - len(self._connections))

    def _pressure(self) -> float:
        """How much is used of what isn't time: bytes of bodies, descriptors. 1 is too much."""
        assert self._plane is not None
        in_flight = self._plane.in_flight
        descriptors = len(self._connections) + self._plane.generations.upstream_connections + _RESERVED
        return max(in_flight.held / (0.8 * in_flight.limit), descriptors / (0.95 * self._descriptors))

    # --- cold work

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(METRICS_S)
            self._send_metrics()

    async def _sync_journal(self) -> None:
        while True:
            await asyncio.sleep(self._fsync_s or METRICS_S)
            if self._plane is not None and self._fsync_s:
                await self._sync(self._plane)

    async def _remember(self, plane: DataPlane, store: Store) -> None:
        """Takes over what was learnt about token counts, and shares what is learnt here."""
        await plane.tokens.restore(store)
        while True:
            await asyncio.sleep(LESSONS_S)
            await plane.tokens.persist(store)

    def _send_metrics(self) -> None:
        if self._plane is not None:
            gauges = self._metrics.gauges
            gauges.connections = len(self._connections)
            gauges.bytes_in_flight = self._plane.in_flight.held
            gauges.upstream_connections = self._plane.generations.upstream_connections
            self._metrics.deployments = self._plane.state.dispatch.routes.standing()
            gauges.tasks = len(asyncio.all_tasks(self._loop))
            self._count_overload(self._plane.gate)
        self._channel.send("metrics", snapshot=self._metrics.snapshot())

    def _count_overload(self, gate: Gate) -> None:
        gauges, limit = self._metrics.gauges, gate.limit.now
        gauges.exchanges_waiting = gate.waiting
        gauges.exchange_limit = 0 if limit == UNLIMITED else int(limit)
        gauges.loop_lag_us = 0 if self._watch is None else int(self._watch.lag_s * 1e6)
        for rank, name in enumerate(CLASSES):
            if gate.shed[rank]:
                self._metrics.count(f"exchanges_shed_{name}", gate.shed[rank])
                gate.shed[rank] = 0

    async def _sync(self, plane: DataPlane) -> None:
        """Group fsync of the journal, off the loop."""
        fd = plane.journal.sync_fd()
        if fd is None:
            return
        try:
            await self._loop.run_in_executor(None, os.fdatasync, fd)
        except OSError:
            self._metrics.count("journal_sync_failures")
        finally:
            os.close(fd)

    def _lookup(self, kind: str, **question: Any) -> asyncio.Future[dict[str, Any] | None]:
        """Asks the supervisor, which may read files; None if it doesn't answer in time."""
        number = next(self._numbers)
        waiting: asyncio.Future[dict[str, Any] | None] = self._loop.create_future()
        self._questions[number] = waiting
        if not self._channel.send("lookup", id=number, kind=kind, **question):
            waiting.set_result(None)

        def give_up() -> None:
            self._questions.pop(number, None)
            if not waiting.done():
                waiting.set_result(None)

        self._loop.call_later(LOOKUP_S, give_up)
        return waiting

    def _log(self, level: str, event: str, **fields: Any) -> None:
        self._channel.send("log", level=level, event=event, fields=fields)

    # --- ends

    def _signalled(self) -> None:
        if self._drain is not None:
            self._stopped.set()
        else:
            timeouts = self._timeouts
            self._drain = self._loop.create_task(self._drained(timeouts.drain_s, timeouts.drain_idle_s), name="drain")

    async def _drained(self, timeout_s: float, idle_s: float) -> None:
        """Takes no new connection, lets the running exchanges end, then stops."""
        if self._plane is not None:
            self._plane.draining = True
        if self._accepting is not None:
            self._accepting.close()
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.drain(idle_s)
        deadline = self._loop.time() + timeout_s
        while self._connections and self._loop.time() < deadline:  # noqa: ASYNC110  # filled and emptied by callbacks
            await asyncio.sleep(0.02)  # the set is filled and emptied by plain callbacks
        self._stopped.set()
        self._channel.send("drained", finished=not self._connections)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.abort()
        if self._remembering is not None:
            self._remembering.cancel()
        if self._watch is not None:
            self._watch.close()
        if self._plane is not None:
            await asyncio.sleep(0)  # let the aborts cancel their exchanges, which then settle
            await self._plane.aclose(patience_s=1.0)
            await asyncio.sleep(0)
            self._plane.journal.close()
        if self._counter is not None:
            await self._counter.aclose()
        if self._store is not None:
            await self._store.aclose()
        self._send_metrics()
        self._channel.close()
        self._ticker.close()
        self._resolver.close()


def limits_of(deployment: DeploymentFile) -> ServerLimits:
    """What a client's connection may take, as the deployment file says."""
    limits, timeouts = deployment.limits, deployment.timeouts
    return ServerLimits(
        line_bytes=limits.line_bytes,
        headers=limits.headers,
        stream_buffer_bytes=limits.stream_buffer_bytes,
        header_s=timeouts.header_s,
        body_idle_s=timeouts.body_idle_s,
        keep_alive_s=timeouts.keep_alive_s,
        slow_reader_s=timeouts.slow_reader_s,
        total_s=timeouts.longest_s,
        half_close=deployment.half_close == "answer",
    )


def _keep_memory() -> None:
    """Lets glibc keep what large bodies used, up to 16 MiB, instead of mapping it anew for each read.

    By default it maps and unmaps everything over 128 KiB, and a 5 MB body then costs some thousand page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc only
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 16 * 2**20)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _main(control: int, listen: list[int], index: int) -> None:
    channel = await Channel.open(socket.socket(fileno=control))
    listeners = [socket.socket(fileno=fd) for fd in listen]
    for listener in listeners:
        listener.setblocking(False)
    await Worker(channel, listeners, index).run()


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="proxy.worker")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--index", type=int, required=True)
    options = parser.parse_args()
    _raise_descriptor_limit()
    _keep_memory()
    sys.stdout.flush()
    uvloop.run(_main(options.control, [int(fd) for fd in options.listen.split(",")], options.index))


if __name__ == "__main__":
    main()
