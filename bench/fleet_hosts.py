"""Hosts of a fleet on one machine: a network namespace each, on a bridge of their own.

Rules: every namespace, interface and process made here is gone when `Net` is closed, whatever happened. Names carry
this process's id, so that two runs don't meet. A cut is silent, as a broken switch is: packets go nowhere, nobody is
told. Delay is netem's; a kernel without it gets a slow link (tbf) instead, and the run says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

NOWHERE = "02:00:00:00:00:01"
SLOW = ("rate", "2mbit", "burst", "8k", "latency", "400ms")
DELAY = ("delay", "40ms", "20ms", "loss", "1%")


class UnavailableError(Exception):
    """This machine can't play several hosts; the text says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """One of them: its namespace, its address, the bridge's end of its cable."""

    name: str
    space: str
    address: str
    port: str

    def command(self, *argv: str, user: str = "") -> list[str]:
        """How to run a program there."""
        return ["ip", "netns", "exec", self.space, *(["runuser", "-u", user, "--"] if user else []), *argv]


class Net:
    """A bridge with hosts on it. `gateway` is this side's address there."""

    def __init__(self) -> None:
        self._id = f"{os.getpid() % 46656:x}"
        self._bridge = f"wb{self._id}"
        self._subnet = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self._hosts: list[Host] = []
        self.gateway = f"{self._subnet}.1"

    def __enter__(self) -> Net:
        if os.getuid() or not all(map(shutil.which, ("ip", "tc"))):
            raise UnavailableError("network namespaces need root and iproute2")
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
        except UnavailableError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def host(self, name: str) -> Host:
        """One more host, reachable from here and from the others."""
        number = 10 + len(self._hosts)
        space, port = f"wn{self._id}-{name}", f"wp{self._id}-{number}"
        host = Host(name, space, f"{self._subnet}.{number}", port)
        self._hosts.append(host)
        _ip("netns", "add", space)
        _ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", port, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")
        return host

    @contextlib.contextmanager
    def gone(self, host: Host) -> Iterator[None]:
        """Nobody reaches it, and it reaches nobody."""
        _ip("link", "set", host.port, "down")
        try:
            yield
        finally:
            _ip("link", "set", host.port, "up")

    @contextlib.contextmanager
    def cut(self, one: Host, other: Host) -> Iterator[None]:
        """These two don't reach each other; all others do."""
        pairs = ((one, other), (other, one))
        for here, there in pairs:
            _ip(
                "-n",
                here.space,
                "neigh",
                "replace",
                there.address,
                "lladdr",
                NOWHERE,
                "dev",
                "eth0",
                "nud",
                "permanent",
            )
        try:
            yield
        finally:
            for here, there in pairs:
                _ip("-n", here.space, "neigh", "del", there.address, "dev", "eth0")

    @contextlib.contextmanager
    def slow(self, host: Host) -> Iterator[str]:
        """Its cable is bad; gives the kind of badness."""
        kind = "netem"
        try:
            _run("tc", "qdisc", "add", "dev", host.port, "root", "netem", *DELAY)
        except UnavailableError:
            kind = "tbf"
            _run("tc", "qdisc", "add", "dev", host.port, "root", "tbf", *SLOW)
        try:
            yield f"{kind} {' '.join(DELAY if kind == 'netem' else SLOW)}"
        finally:
            _run("tc", "qdisc", "del", "dev", host.port, "root")

    def close(self) -> None:
        """Takes everything away."""
        for host in self._hosts:
            with contextlib.suppress(UnavailableError):
                _ip("netns", "del", host.space)
            with contextlib.suppress(UnavailableError):
                _ip("link", "del", host.port)
        with contextlib.suppress(UnavailableError):
            _ip("link", "del", self._bridge)
        self._hosts = []


class Database:
    """PostgreSQL on a host, as a user that isn't root."""

    def __init__(self, host: Host, directory: Path, user: str = "postgres") -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
        if not found:
            raise UnavailableError("no PostgreSQL (Debian: apt-get install postgresql)")
        self._programs, self.host, self._data, self._user = found[0].parent, host, directory / "data", user
        directory.mkdir(parents=True)
        shutil.chown(directory, user)
        as_user = ["runuser", "-u", user, "--"]
        _run(*as_user, str(self._programs / "initdb"), "-D", str(self._data), "-U", "weir", "-A", "trust", "--no-sync")
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.0.0.0/8 trust\n")

    @property
    def command(self) -> list[str]:
        """How it is started."""
        options = [f"listen_addresses={self.host.address}", f"unix_socket_directories={self._data}", "fsync=off"]
        named = [part for option in options for part in ("-c", option)]
        return self.host.command(str(self._programs / "postgres"), "-D", str(self._data), *named, user=self._user)

    @property
    def url(self) -> str:
        """Its address for clients."""
        return f"postgresql://weir@{self.host.address}/postgres"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    if done.returncode:
        raise UnavailableError(f"{' '.join(command[:6])}: {(done.stderr or done.stdout).strip()[-200:]}")
