"""Hosts in network namespaces: reached, cut off silently, and gone without a trace."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.fleet_hosts import Host, Net, UnavailableError

SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    server.accept()[0].close()
"""
CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], 7000), timeout=0.2)"


@pytest.fixture
def net() -> Iterator[Net]:
    """A bridge, where this machine can have one."""
    try:
        with Net() as made:
            yield made
    except UnavailableError as why:
        pytest.skip(str(why))


@contextlib.contextmanager
def serving(host: Host) -> Iterator[None]:
    command = host.command(sys.executable, "-c", SERVER, host.address)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def reached(host: Host) -> str:
    """From here: how connecting ends."""
    try:
        socket.create_connection((host.address, 7000), timeout=0.2).close()
    except OSError as error:
        return type(error).__name__
    return "reached"


def reached_from(one: Host, other: Host) -> str:
    done = subprocess.run(one.command(sys.executable, "-c", CLIENT, other.address), capture_output=True, text=True)
    return "TimeoutError" if "timed out" in done.stderr else "reached" if not done.returncode else done.stderr[-80:]


def test_cuts_are_silent_and_end(net: Net) -> None:
    """A cut host doesn't answer anybody; two that are cut from each other answer all others; afterwards all is well."""
    one, other = net.host("a"), net.host("b")
    with serving(other):
        assert (reached(other), reached_from(one, other)) == ("reached", "reached")
        with net.gone(other):
            assert reached(other) == "TimeoutError"
        with net.cut(one, other):
            assert (reached(other), reached_from(one, other)) == ("reached", "TimeoutError")
        assert (reached(other), reached_from(one, other)) == ("reached", "reached")


def test_nothing_is_left(net: Net) -> None:
    """Spaces and cables go with the net."""
    host = net.host("a")
    net.close()
    for listing in (["netns", "list"], ["-o", "link"]):
        shown = subprocess.run(["ip", *listing], capture_output=True, text=True).stdout
        assert host.space not in shown
        assert host.port not in shown
