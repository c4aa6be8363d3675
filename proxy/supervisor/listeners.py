"""The listening sockets: bound once by the supervisor, inherited by every worker.

Rules: all workers accept from the same sockets, so a connection that waits in the queue outlives the worker that
dies. Nothing is bound twice: an address that is taken is an error that says who has it. `unix:` paths left by a dead
process are replaced.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Iterable
from pathlib import Path

WORKER = "a weir worker"
BACKLOG = 4096
"""asyncio's default of 100 drops connections in a burst."""

_HOST_PORT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


class ListenError(Exception):
    """An address can't be bound; the text says why and what to do. `workers`: it is workers of ours that have it."""

    def __init__(self, message: str, *, workers: bool = False) -> None:
        super().__init__(message)
        self.workers = workers


def split(address: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` (all interfaces) as a host and a port. Raises `ListenError`."""
    match = _HOST_PORT.fullmatch(address.strip())
    if match is None or int(match["port"]) > 65535:
        raise ListenError(f"not an address to listen on: {address!r}; write host:port, [ipv6]:port or unix:/path")
    return match["six"] or match["host"] or "0.0.0.0", int(match["port"])  # noqa: S104  # asked for


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith("unix:"):
        return True
    host = split(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def bind(addresses: Iterable[str]) -> list[socket.socket]:
    """Bind and listen on all of them, or on none. Raises `ListenError`."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(sock) for address in addresses for sock in _bind_one(address)]
        opened.pop_all()
        return sockets


def name_of(sock: socket.socket) -> str:
    """The address that was bound in the form in which it is configured; shows the port chosen for port 0."""
    name = sock.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def _bind_one(address: str) -> list[socket.socket]:
    if address.startswith("unix:"):
        return [_bind_unix(Path(address.removeprefix("unix:")))]
    host, port = split(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ListenError(f"can't resolve {host!r} to listen on: {error.strerror}") from error
    with contextlib.ExitStack() as opened:
        # `localhost` is two addresses; with port 0 both shall get the same one.
        sockets: list[socket.socket] = []
        for family, _, _, _, where in dict.fromkeys(found):
            chosen = sockets[0].getsockname()[1] if sockets and not port else port
            if sock := _bind_tcp(family, (where[0], chosen, *where[2:]), address, optional=bool(sockets)):
                sockets.append(opened.enter_context(sock))
        opened.pop_all()
        return sockets


def _bind_tcp(family: int, where: tuple[object, ...], address: str, *, optional: bool) -> socket.socket | None:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:  # this machine has no IPv6
        if optional:
            return None
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if optional and error.errno == errno.EADDRNOTAVAIL:
            return None
        raise _explained(error, address, int(str(where[1]))) from error
    return sock


def _bind_unix(path: Path) -> socket.socket:
    if path.is_socket() and not _answers(path):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _explained(error, f"unix:{path}", 0) from error
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _explained(error: OSError, address: str, port: int) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        holders = ", ".join(_holders(port)) if port else ""
        who = f" by {holders}" if holders else ""
        message = f"address already in use: {address}{who}; stop that process or listen elsewhere"
        return ListenError(message, workers=WORKER in holders)
    if error.errno == errno.EACCES:
        return ListenError(f"not allowed to listen on {address}; ports below 1024 need a privilege, take a higher one")
    if error.errno == errno.EADDRNOTAVAIL:
        return ListenError(f"this machine doesn't have the address {address}; 0.0.0.0 stands for all that it has")
    return ListenError(f"can't listen on {address}: {error.strerror or error}")


def _holders(port: int) -> list[str]:
    """Which processes listen on this port, as far as this user may see (Linux); empty elsewhere."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):
            if any(str(fd.readlink()) in inodes for fd in (process / "fd").iterdir()):
                found.append(f"process {process.name} ({_program(process)})")
    return found


def _program(process: Path) -> str:
    """Its name; a worker of ours is named as such, because its supervisor may have died and left it."""
    if b"proxy.worker" in (process / "cmdline").read_bytes().split(b"\0"):
        return WORKER
    return (process / "comm").read_text().strip()


def _listening(table: str, port: int) -> list[str]:
    """The inodes of sockets in state LISTEN (0A) on `port`, from /proc/net."""
    try:
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
