"""One worker process as the supervisor sees it: started, spoken to, ended.

Rules: a worker gets its listening sockets and its end of the channel by inheritance and binds nothing. It runs in a
process group of its own, so that Ctrl-C in a terminal reaches the supervisor only, which then drains. Every question
has an answer in time or `None`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxy.clients.keys import KeyRecord
from proxy.control import Channel
from proxy.metrics import Snapshot

Message = dict[str, Any]


def spawned(command: Sequence[str], fds: Sequence[int] = ()) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """`command --control FD`, which inherits these descriptors and one end of a channel; the other end is ours."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(  # noqa: S603  # our own program; takes milliseconds
            [*command, "--control", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # none has anything to say to stdout; what a policy prints goes where the logs go
            pass_fds=[theirs.fileno(), *fds],
            process_group=0,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


@dataclass(slots=True, eq=False)
class Worker:
    """A running worker. `ready` is set by its message; `snapshot` is the newest it has sent.

    `owner` names this life of it, for what it holds in the shared state.
    """

    index: int
    process: subprocess.Popen[bytes]
    channel: Channel
    ended: asyncio.Future[int]
    started_s: float
    ready: bool = False
    heard_s: float = 0.0
    hash: str | None = None
    snapshot: Snapshot | None = None
    owner: str = ""
    keys: tuple[KeyRecord, ...] | None = None  # what it was told last; None: nothing, or it isn't certain
    _questions: dict[str, list[asyncio.Future[Message | None]]] = field(default_factory=dict)

    @classmethod
    async def start(cls, command: Sequence[str], index: int, listeners: Sequence[socket.socket]) -> Worker:
        """Spawn `command --control FD --listen FD,… --index N`."""
        fds = [sock.fileno() for sock in listeners]
        process, ours = spawned([*command, "--listen", ",".join(map(str, fds)), "--index", str(index)], fds)
        now_s = time.monotonic()
        return cls(index, process, await Channel.open(ours), ending_of(process), now_s, heard_s=now_s)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def heard(self, message: Message) -> None:
        """Note a message and hand it to whoever waits for one of its type."""
        self.heard_s = time.monotonic()
        kind = message["type"]
        if kind == "ready":
            self.ready = True
        elif kind == "metrics":
            with contextlib.suppress(msgspec.ValidationError):  # then the last good one stands
                self.snapshot = msgspec.convert(message.get("snapshot"), Snapshot)
        elif kind == "configured":
            self.hash = message.get("hash")
        for waiting in self._questions.pop(kind, ()):
            if not waiting.done():
                waiting.set_result(message)

    async def ask(self, question: str, answers: Sequence[str], within_s: float, **fields: Any) -> Message | None:
        """Send a message and wait for one of the types in `answers`; None when it doesn't come in time or can't."""
        waiting: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        for kind in answers:
            self._questions.setdefault(kind, []).append(waiting)
        try:
            if not self.channel.send(question, **fields):
                return None
            return await asyncio.wait_for(waiting, within_s)
        except TimeoutError:
            return None
        finally:
            for kind in answers:
                with contextlib.suppress(ValueError, KeyError):
                    self._questions[kind].remove(waiting)

    def gone(self) -> None:
        """The process has ended: nobody will answer any more."""
        self.ready = False
        self.channel.close()
        for waiting in [one for many in self._questions.values() for one in many]:
            if not waiting.done():
                waiting.set_result(None)
        self._questions.clear()

    def kill(self) -> None:
        """End it now; a no-op if it has ended."""
        self.process.kill()

    async def end(self, patience_s: float) -> None:
        """Tell it to stop; kill it if it doesn't within `patience_s`."""
        if not self.channel.send("stop"):
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), patience_s)
            return
        self.kill()
        await asyncio.shield(self.ended)


def ending_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """Resolves to the return code.

    A thread waits, because asyncio's own child watcher and `Popen.send_signal` may both reap the process, and then the
    return code is lost; `Popen` alone
    holds a lock around it.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def tell(returncode: int) -> None:
        if not ended.done():
            ended.set_result(returncode)

    def wait() -> None:
        returncode = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(tell, returncode)

    threading.Thread(target=wait, name=f"wait for {process.pid}", daemon=True).start()
    return ended


def ending(returncode: int) -> dict[str, Any]:
    """How a process ended, as fields of a log line: a signal by name, else the exit status."""
    if returncode < 0:
        try:
            return {"signal": signal.Signals(-returncode).name}
        except ValueError:
            return {"signal": -returncode}
    return {"status": returncode}
