"""Sockets to listen on."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.simulator.ports import free_port
from proxy.supervisor.listeners import ListenError, bind, is_loopback, name_of, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        ("[::1]:1", ("::1", 1)),
        (":80", ("0.0.0.0", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    """Host and port, also of IPv6 and of every interface."""
    assert split(text) == expected


@pytest.mark.parametrize("text", ["", "8787", "::1:80", "host:70000", "http://host:80", "host:-1", "[::1]"])
def test_other_text_is_refused(text: str) -> None:
    """What isn't an address is named in the error."""
    with pytest.raises(ListenError, match="not an address"):
        split(text)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/weir.sock", True),
        ("0.0.0.0:1", False),
        (":1", False),
        ("[::]:1", False),
        ("localhost.example.com:1", False),
    ],
)
def test_only_this_machine(address: str, expected: bool) -> None:
    """A name that merely looks like loopback isn't."""
    assert is_loopback(address) is expected


def test_port_0_becomes_a_port() -> None:
    """The name shows the port that was chosen."""
    (sock,) = bind(["127.0.0.1:0"])
    with sock:
        host, port = split(name_of(sock))
        assert host == "127.0.0.1"
        assert port > 0


def test_localhost_is_one_port_on_both_families() -> None:
    """IPv4 and IPv6 loopback, where both exist, share the port."""
    sockets = bind(["localhost:0"])
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()
    assert len(ports) == 1


def test_all_or_none() -> None:
    """When one address is taken, those bound before it are free again."""
    (taken,) = bind(["127.0.0.1:0"])
    free = f"127.0.0.1:{free_port()}"
    with taken, pytest.raises(ListenError, match="already in use"):
        bind([free, name_of(taken)])
    (again,) = bind([free])
    again.close()


def test_a_unix_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """A path nobody answers on is taken over; one that somebody answers on is not."""
    address = f"unix:{tmp_path / 'weir.sock'}"
    (first,) = bind([address])
    with first, pytest.raises(ListenError, match="already in use"):
        bind([address])
    (second,) = bind([address])
    assert name_of(second) == address
    second.close()
