"""Making a connection to an upstream: names to addresses, the race of addresses, a forward proxy, TLS.

Rules:
1. A DNS answer is kept and refreshed behind the requests' back: only the first request to a name ever waits for it.
2. Addresses are raced (RFC 8305): uvloop's `create_connection` can't, so sockets are connected here and passed on.
3. TLS is never downgraded and always verified, against the system's CAs or the upstream's own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from proxy.wire.client import Progress, WireError

_DNS_TTL_S: Final = 30.0
_STAGGER_S: Final = 0.25  # RFC 8305, section 5: Connection Attempt Delay
P = TypeVar("P", bound=asyncio.BaseProtocol)

Address = tuple[int, Any]  # family and the address as `socket.connect` takes it


class Origin(msgspec.Struct, frozen=True):
    """Where an upstream is: scheme, host, port, how to get there."""

    scheme: str
    host: str
    port: int
    ca: str | None = None
    via: str | None = None  # a forward proxy's URL, reached by CONNECT

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme == "https"

    @property
    def authority(self) -> bytes:
        """The Host field's value."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.secure else 80
        return (host if self.port == default else f"{host}:{self.port}").encode()


def origin_of(url: str, ca: str | None = None, via: str | None = None) -> Origin:
    """The origin of an upstream's URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https URL: {url!r}")
    return Origin(parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), ca, via)


class Resolver:
    """Names to addresses, remembered for 30 s and refreshed in the background while they are asked for."""

    def __init__(self, ttl_s: float = _DNS_TTL_S) -> None:
        self._ttl_s = ttl_s
        self._known: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._refreshing: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, families interleaved. Raises WireError(dns)."""
        key = (host, port)
        known = self._known.get(key)
        if known is None:
            return await asyncio.shield(self._refresh(key))
        if known[0] < asyncio.get_running_loop().time():
            self._refresh(key).add_done_callback(_retrieve)
        return known[1]

    def _refresh(self, key: tuple[str, int]) -> asyncio.Task[list[Address]]:
        task = self._refreshing.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._look_up(key), name=f"dns {key[0]}")
            self._refreshing[key] = task
        return task

    async def _look_up(self, key: tuple[str, int]) -> list[Address]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        except OSError as error:
            raise WireError("dns", Progress.CONNECTING, f"{key[0]}: {error.strerror or error}") from None
        finally:
            self._refreshing.pop(key, None)
        addresses = _interleave([(family, address) for family, _, _, _, address in found])
        self._known[key] = (loop.time() + self._ttl_s, addresses)
        return addresses

    def close(self) -> None:
        """Ends look-ups under way."""
        for task in self._refreshing.values():
            task.cancel()


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _interleave(addresses: list[Address]) -> list[Address]:
    """Families in turn, the resolver's first choice first (RFC 8305, section 4)."""
    if not addresses:
        return []
    first = [a for a in addresses if a[0] == addresses[0][0]]
    others = [a for a in addresses if a[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or others:
        mixed.extend(family.pop(0) for family in (first, others) if family)
    return mixed


class Connector:
    """Opens connections to origins."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._read: dict[str, bytes] = {}  # of each CA file: what it held

    def context(self, ca: str | None) -> ssl.SSLContext:
        """The TLS settings for an upstream with its own CA file, or for the system's CAs. Made once: it reads files."""
        if ca not in self._contexts:
            self._contexts[ca] = self._made(ca)
        return self._contexts[ca]

    def _made(self, ca: str | None) -> ssl.SSLContext:
        if ca is not None:
            self._read[ca] = Path(ca).read_bytes()
        made = ssl.create_default_context(cafile=ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols(["http/1.1"])
        return made

    def reread(self) -> None:
        """Takes up CA files that have changed, for connections made from now on. Blocking. Raises ValueError, and
        changes nothing, where one is broken."""
        before, changed = dict(self._read), dict[str | None, ssl.SSLContext]()
        try:
            for ca, held in before.items():
                if Path(ca).read_bytes() != held:
                    changed[ca] = self._made(ca)
        except (OSError, ssl.SSLError) as error:
            self._read = before
            raise ValueError(f"a file of certificates to trust can't be used: {error}") from error
        self._contexts |= changed

    async def connect(self, origin: Origin, factory: Callable[[], P], timeout_s: float) -> P:
        """A connected protocol. Raises WireError(refused, dns, connect_timeout, tls, proxy)."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._connect(origin, factory)
        except TimeoutError:
            raise WireError("connect_timeout", Progress.CONNECTING, f"no connection within {timeout_s:g} s") from None
        except ssl.SSLError as error:
            raise WireError("tls", Progress.CONNECTING, error.reason or "TLS failed") from None
        except OSError as error:
            raise WireError("refused", Progress.CONNECTING, os.strerror(error.errno) if error.errno else "") from None

    async def _connect(self, origin: Origin, factory: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        if origin.via is not None:
            sock = await self._tunnel(origin)
        else:
            sock = await self._race(await self._resolver.resolve(origin.host, origin.port))
        try:
            if origin.secure:
                tls = self.context(origin.ca)
                _, protocol = await loop.create_connection(factory, sock=sock, ssl=tls, server_hostname=origin.host)
            else:
                _, protocol = await loop.create_connection(factory, sock=sock)
        except BaseException:
            sock.close()
            raise
        return protocol

    async def _race(self, addresses: list[Address]) -> socket.socket:
        """Connects to the first address that answers, starting one every 250 ms."""
        if len(addresses) == 1:
            return await _open(addresses[0])
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[socket.socket]] = set()
        waiting = list(addresses)
        failure: BaseException = OSError("no address")
        try:
            while waiting or tasks:
                if waiting:
                    tasks.add(loop.create_task(_open(waiting.pop(0)), name="connect"))
                done, tasks = await asyncio.wait(
                    tasks, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                winner: socket.socket | None = None
                for task in done:
                    if (error := task.exception()) is not None:
                        failure = error
                    elif winner is None:
                        winner = task.result()
                    else:
                        task.result().close()
                if winner is not None:
                    return winner
            raise failure
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, socket.socket):
                    outcome.close()

    async def _tunnel(self, origin: Origin) -> socket.socket:
        """A socket through a forward proxy (RFC 9110, section 9.3.6)."""
        assert origin.via is not None
        proxy = urlsplit(origin.via)
        if proxy.scheme != "http" or not proxy.hostname:
            raise WireError("proxy", Progress.CONNECTING, "only http:// forward proxies are supported")
        sock = await self._race(await self._resolver.resolve(proxy.hostname, proxy.port or 80))
        try:
            host = f"[{origin.host}]" if ":" in origin.host else origin.host
            await _ask_for_tunnel(sock, f"{host}:{origin.port}", _basic(proxy.username, proxy.password))
        except BaseException:
            sock.close()
            raise
        return sock


async def _open(address: Address) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


def _basic(user: str | None, password: str | None) -> bytes:
    if user is None:
        return b""
    from base64 import b64encode
    from urllib.parse import unquote

    pair = f"{unquote(user)}:{unquote(password or '')}".encode()
    return b"Proxy-Authorization: Basic " + b64encode(pair) + b"\r\n"


async def _ask_for_tunnel(sock: socket.socket, authority: str, credentials: bytes) -> None:
    loop = asyncio.get_running_loop()
    target = authority.encode()
    await loop.sock_sendall(sock, b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, credentials))
    answer = b""
    while b"\r\n\r\n" not in answer:
        # Byte by byte past nothing: what follows the head belongs to the tunnel, and TLS hasn't begun, so nothing
        # follows.
        piece = await loop.sock_recv(sock, 4096)
        answer += piece
        if not piece or len(answer) > 8192:
            raise WireError("proxy", Progress.CONNECTING, "the forward proxy closed the connection")
    status = answer.split(b"\r\n", 1)[0].split(b" ")
    if len(status) < 2 or not status[1].startswith(b"2"):
        detail = status[1].decode("latin-1") if len(status) > 1 else "no status"
        raise WireError("proxy", Progress.CONNECTING, f"the forward proxy refused the tunnel: {detail}")


def forward_proxy_for(url: str, env: dict[str, str]) -> str | None:
    """The forward proxy that the environment names for a URL, by HTTPS_PROXY, HTTP_PROXY and NO_PROXY."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    for entry in (env.get("NO_PROXY") or env.get("no_proxy") or "").split(","):
        name = entry.strip().lstrip(".").lower()
        if name == "*" or (name and (host == name or host.endswith("." + name))):
            return None
    found = env.get(f"{parts.scheme.upper()}_PROXY") or env.get(f"{parts.scheme}_proxy")
    return found or None
