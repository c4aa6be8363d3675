"""Real servers for the tests of the Store: Redis and Valkey, alone or as a cluster of one node, which enforces the
rules of slots. Each runs as a child on a free port of 127.0.0.1, and can be killed, frozen and
started anew.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.simulator.ports import free_port
from tests.children import at_our_end
from tests.patience import PATIENCE_S
from tests.real import environments

ATTEMPTS = 5  # another program may take the port before the server does


class Unavailable(Exception):
    """A server can't be had here; the message is one clear line for a skipped test."""


class Server:
    """One server over one directory; `options` are added to its command line."""

    def __init__(self, program: str, directory: Path, *options: str) -> None:
        self.program = program
        self.directory = directory
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Server {Path(self.program).name} :{self.port}>"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Starts it, on the port that it had, and waits until it answers."""
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            if self._started(port):
                self.port = port
                return
        raise AssertionError(f"{self.program} did not start: {(self.directory / 'log').read_text()[-2000:]}")

    def say(self, *words: str | bytes) -> bytes:
        """The beginning of what it answers to one command; for what the Store itself never says."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(packed(words))
            return connection.recv(65536)

    def freeze(self) -> None:
        """It keeps its connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """It ends at once. What it has not written is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _started(self, port: int) -> bool:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            self.program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
            *self.options,
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=at_our_end(signal.SIGKILL)
            )
        self.port, before = port, self.port
        ends_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_s and self._process.poll() is None:
            try:
                if self.say("PING").startswith((b"+PONG", b"-NOAUTH")):
                    return True
            except OSError:
                pass
            time.sleep(0.01)
        self.kill()
        self.port = before
        return False


def packed(words: Iterable[str | bytes]) -> bytes:
    """A command as the server reads it."""
    encoded = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def redis_program() -> str:
    """Debian's redis-server; `make system` installs it where this machine allows it."""
    program = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/sbin:/usr/local/bin")
    if program is None:
        raise Unavailable("redis-server is not installed (on Debian: apt-get install redis-server)")
    return program


def valkey_program() -> str:
    """valkey-server from the PATH, else the one that is kept beside the clients of tests/real."""
    if program := shutil.which("valkey-server"):
        return program
    try:
        folder = Path(environments.python("valkey").env["PYTHONPATH"])
    except environments.Unavailable as error:
        raise Unavailable(str(error)) from None
    found = next((path for path in folder.rglob("valkey-server") if path.is_file()), None)
    if found is None:
        raise Unavailable("valkey-server is not installed, and not in its package for this machine")
    found.chmod(0o755)
    return str(found)


@contextmanager
def running(program: str, directory: Path, *options: str) -> Iterator[Server]:
    """A server for as long as it is needed. Nothing is kept unless `options` say so."""
    server = Server(program, directory, *(options or ("--save", "", "--appendonly", "no")))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def clustered() -> tuple[str, ...]:
    """Options of a node of a cluster; its second port is by custom 10,000 above the first, which may not exist."""
    return ("--save", "", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))


@contextmanager
def cluster_of_one(program: str, directory: Path) -> Iterator[Server]:
    """A cluster with all slots on one node: commands over several slots are errors, as in a real one."""
    with running(program, directory, *clustered()) as server:
        server.say("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        until_up(server)
        yield server


@contextmanager
def cluster_of_two(program: str, directory: Path) -> Iterator[tuple[Server, Server]]:
    """A cluster whose nodes have half of the slots each."""
    with (
        running(program, directory / "one", *clustered()) as one,
        running(program, directory / "two", *clustered()) as two,
    ):
        one.say("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        two.say("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
        one.say("CLUSTER", "MEET", "127.0.0.1", str(two.port), two.options[-1])
        until_up(one)
        until_up(two)
        yield one, two


def until_up(server: Server) -> None:
    """Waits until a node says that all slots are served."""
    ends_s = time.monotonic() + PATIENCE_S
    while b"cluster_state:ok" not in server.say("CLUSTER", "INFO"):
        assert time.monotonic() < ends_s, "the cluster did not come up"
        time.sleep(0.01)
