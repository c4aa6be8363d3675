"""Making connections: names, the race of addresses, forward proxies, certificates; each failure by its own name."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority
from proxy.simulator.ports import BlackHole, refused_url
from proxy.wire import connect as module
from proxy.wire.client import Progress, UpstreamConnection, WireError
from proxy.wire.connect import Address, Connector, Resolver, forward_proxy_for, origin_of
from proxy.wire.ticker import Ticker
from tests.patience import PATIENCE_S
from tests.wire.conftest import Serve
from tests.wire.raw import chat, get, post

LOCAL = socket.AF_INET


class Names(Resolver):
    """A resolver that knows what it is told."""

    def __init__(self, *addresses: Address) -> None:
        super().__init__()
        self._addresses = list(addresses)

    async def resolve(self, host: str, port: int) -> list[Address]:
        return self._addresses


class Owner:
    """Takes connections back."""

    def release(self, connection: UpstreamConnection, reusable: bool) -> None:
        pass


def factory() -> Callable[[], UpstreamConnection]:
    ticker = Ticker(asyncio.get_running_loop(), 3600)
    return lambda: UpstreamConnection(Owner(), ticker, 30.0)


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> AsyncIterator[tuple[Address, list[Any]]]:
    """A port that accepts, and what it accepted."""
    accepted: list[Any] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, host, 0)
    sock = server.sockets[0]
    try:
        yield (sock.family, sock.getsockname()), accepted
    finally:
        server.close()


def closed_port() -> Address:
    return LOCAL, ("127.0.0.1", int(refused_url().split(":")[2].split("/")[0]))


async def failure(
    url: str, timeout_s: float = PATIENCE_S, resolver: Resolver | None = None, **options: Any
) -> WireError:
    with pytest.raises(WireError) as raised:
        await Connector(resolver or Resolver()).connect(origin_of(url, **options), factory(), timeout_s)
    assert raised.value.progress is Progress.CONNECTING
    return raised.value


# --- names and addresses


async def test_refused_unknown_and_silent_are_told_apart() -> None:
    """A closed port, a name that nobody knows, and a port that doesn't answer."""
    assert (await failure(refused_url())).kind == "refused"
    assert (await failure("http://upstream.invalid/v1")).kind == "dns"
    with BlackHole() as hole:
        assert (await failure(hole.url, 0.1)).kind == "connect_timeout"


async def test_the_next_address_is_tried_at_once_where_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that refuse and one that accepts: the third is found without waiting for the stagger."""
    monkeypatch.setattr(module, "_STAGGER_S", 3600.0)
    async with listening() as (address, accepted):
        resolver = Names(closed_port(), closed_port(), address)
        connection = await Connector(resolver).connect(origin_of("http://upstream/"), factory(), PATIENCE_S)
        assert not connection.lost
        await until(lambda: len(accepted) == 1)
        connection.close()


async def test_a_silent_address_is_raced_by_the_next() -> None:
    """Where the first doesn't answer, the second is tried beside it after 250 ms, and wins (RFC 8305)."""
    with BlackHole() as hole:
        async with listening() as (address, _):
            resolver = Names((LOCAL, ("127.0.0.1", hole.port)), address)
            connection = await Connector(resolver).connect(origin_of("http://upstream/"), factory(), PATIENCE_S)
            peer = connection._transport.get_extra_info("peername")
            assert peer[1] == address[1][1]
            connection.close()


async def test_a_race_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two addresses answer in the same moment, the loser's socket is closed."""
    opened: list[socket.socket] = []

    async def both_at_once(address: Address) -> socket.socket:
        sock = socket.socket()
        opened.append(sock)
        await go.wait()
        return sock

    go = asyncio.Event()
    monkeypatch.setattr(module, "_open", both_at_once)
    monkeypatch.setattr(module, "_STAGGER_S", 0.001)
    race = asyncio.create_task(Connector(Resolver())._race([closed_port()] * 3))
    await until(lambda: len(opened) == 3)
    go.set()
    winner = await race
    assert [sock.fileno() >= 0 for sock in opened].count(True) == 1
    winner.close()


async def test_a_race_that_is_cancelled_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while all attempts are under way."""
    begun, real = 0, module._open

    async def counted(address: Address) -> socket.socket:
        nonlocal begun
        begun += 1
        return await real(address)

    with BlackHole() as hole:
        monkeypatch.setattr(module, "_open", counted)
        monkeypatch.setattr(module, "_STAGGER_S", 0.001)
        before = len(os.listdir("/proc/self/fd"))
        race = asyncio.create_task(Connector(Resolver())._race([(LOCAL, ("127.0.0.1", hole.port))] * 3))
        await until(lambda: begun == 3)
        assert len(os.listdir("/proc/self/fd")) >= before + 3
        race.cancel()
        with pytest.raises(asyncio.CancelledError):
            await race
        assert len(os.listdir("/proc/self/fd")) == before


def test_families_take_turns() -> None:
    """The resolver's first choice first, then the other family, and so on (RFC 8305, section 4)."""
    six, four = socket.AF_INET6, socket.AF_INET
    mixed = module._interleave([(six, 1), (six, 2), (six, 3), (four, 4), (four, 5)])
    assert [address for _, address in mixed] == [1, 4, 2, 5, 3]
    assert module._interleave([]) == []


async def test_only_the_first_request_waits_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known addresses are given at once, also while they are looked up anew; two that ask at once share one look-up."""
    loop, asked = asyncio.get_running_loop(), 0
    go = asyncio.Event()
    go.set()

    async def getaddrinfo(*args: Any, **kwargs: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        await go.wait()
        return [(LOCAL, None, None, "", ("127.0.0.1", asked))]

    resolver = Resolver(ttl_s=0)
    real = type(loop).getaddrinfo
    monkeypatch.setattr(resolver, "_look_up", _looked_up_by(resolver, getaddrinfo))
    first = await asyncio.gather(resolver.resolve("name", 80), resolver.resolve("name", 80))
    assert asked == 1
    go.clear()
    await asyncio.sleep(0.001)
    assert await asyncio.wait_for(resolver.resolve("name", 80), PATIENCE_S) == first[0]
    await until(lambda: asked == 2)
    go.set()
    await until(lambda: not resolver._refreshing)
    assert (await resolver.resolve("name", 80))[0][1] == ("127.0.0.1", 2)
    await until(lambda: not resolver._refreshing)
    assert real is type(loop).getaddrinfo
    resolver.close()


def _looked_up_by(resolver: Resolver, getaddrinfo: Callable[..., Any]) -> Callable[..., Any]:
    async def look_up(key: tuple[str, int]) -> list[Address]:
        found = await getaddrinfo(*key)
        resolver._refreshing.pop(key, None)
        addresses = [(family, address) for family, *_, address in found]
        resolver._known[key] = (asyncio.get_running_loop().time() + resolver._ttl_s, addresses)
        return addresses

    return look_up


async def until(true: Callable[[], Any], within_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.002)


# --- certificates


async def test_a_certificate_of_ones_own_authority_is_taken(tmp_path: Path, serve: Serve) -> None:
    """`ca:` names it; the request is answered over TLS."""
    authority = Authority(tmp_path)
    async with (
        Simulator(tls=authority.serving()) as simulator,
        serve(upstream={"url": simulator.url, "ca": str(authority.path)}) as plane,
        await plane.connect() as client,
    ):
        assert (await client.ask(post(body=chat()))).status == 200


@pytest.mark.parametrize("fault", ["another authority", "another name", "expired", "not TLS"])
async def test_a_bad_certificate_is_a_502_and_nothing_is_sent(tmp_path: Path, serve: Serve, fault: str) -> None:
    """Never downgraded, never sent anyway, and nothing billed (row 4)."""
    authority = Authority(tmp_path)
    names = ("elsewhere.example",) if fault == "another name" else ("localhost", "127.0.0.1")
    tls = None if fault == "not TLS" else authority.serving(*names, expired=fault == "expired")
    trusted = Authority(tmp_path, "Another authority") if fault == "another authority" else authority
    async with Simulator(tls=tls) as simulator:
        url = simulator.url.replace("http://", "https://")
        async with serve(upstream={"url": url, "ca": str(trusted.path)}) as plane, await plane.connect() as client:
            answer = await client.ask(post(body=chat()))
            assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
            assert simulator.state.requests == 0


async def test_tls_1_1_is_not_spoken(tmp_path: Path) -> None:
    """The lowest version is 1.2, for every context."""
    authority = Authority(tmp_path)
    connector = Connector(Resolver())
    for ca in (None, str(authority.path)):
        context = connector.context(ca)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


# --- what becomes of it at the data port


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("refused", 503, "upstream_unreachable"),
        ("dns", 503, "upstream_unreachable"),
        ("blackhole", 504, "upstream_connect_timeout"),
    ],
)
async def test_an_upstream_out_of_reach(serve: Serve, kind: str, status: int, code: str) -> None:
    """Rows 1 to 3: nothing was billed, and the status says so by allowing a retry."""
    with BlackHole() as hole:
        urls = {"refused": refused_url(), "dns": "http://upstream.invalid/v1", "blackhole": hole.url}
        options = {"url": urls[kind], "timeouts": {"connect_s": "200ms" if kind == "blackhole" else "60s"}}
        async with serve(upstream={**options, "pool": {"warm": 0}}) as plane, await plane.connect() as client:
            answer = await client.ask(post(body=chat()))
            assert (answer.status, answer.error["code"]) == (status, code)
            assert answer.header(b"x-should-retry") != b"false"
            (settled,) = [record for record in plane.journal() if record["event"] == "settled"]
            assert (settled["outcome"], settled["nanodollars"]) == ("failed", 0)


# --- forward proxies


class ForwardProxy:
    """A proxy that opens tunnels, or answers what it is told."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if self.answer:
            writer.write(self.answer)
            writer.close()
            return
        host, _, port = head.split(b" ", 2)[1].rpartition(b":")
        far_reader, far_writer = await asyncio.open_connection(host.decode().strip("[]"), int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ForwardProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def test_https_goes_through_the_forward_proxy(tmp_path: Path, serve: Serve) -> None:
    """By CONNECT, with the proxy's own credentials; TLS is with the upstream, which sees none of them."""
    authority = Authority(tmp_path)
    async with Simulator(tls=authority.serving()) as simulator, ForwardProxy().running() as proxy:
        upstream = {
            "url": simulator.url,
            "ca": str(authority.path),
            "proxy": f"http://user:p%40ss@127.0.0.1:{proxy.port}",
        }
        async with serve(upstream=upstream) as plane, await plane.connect() as client:
            assert (await client.ask(post(body=chat()))).status == 200
        head = proxy.asked[0]
        assert head.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % simulator.port)
        assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in head
        assert b"sk-upstream" not in b"".join(proxy.asked)
        assert not [name for name, _ in simulator.requests[0].headers if name.lower() == b"proxy-authorization"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 ",
        b"x" * 10_000,
    ],
)
async def test_a_tunnel_that_is_refused_is_a_502(serve: Serve, answer: bytes) -> None:
    """Whatever the forward proxy says instead, the client hears that it was the forward proxy."""
    async with ForwardProxy(answer).running() as proxy:
        upstream = {"url": "https://127.0.0.1:9/v1", "proxy": f"http://127.0.0.1:{proxy.port}", "pool": {"warm": 0}}
        async with serve(upstream=upstream) as plane, await plane.connect() as client:
            told = await client.ask(post(body=chat()))
            assert (told.status, told.error["code"]) == (502, "forward_proxy")


async def test_an_ipv6_address_is_named_in_brackets() -> None:
    """The CONNECT target of an IPv6 upstream has its brackets."""
    async with ForwardProxy(b"HTTP/1.1 403 No\r\n\r\n").running() as proxy:
        error = await failure("https://[::1]:8443/v1", via=f"http://127.0.0.1:{proxy.port}")
        assert error.kind == "proxy"
        assert proxy.asked[0].startswith(b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n")


def test_the_environment_names_the_forward_proxy() -> None:
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in either case."""
    env = {"HTTPS_PROXY": "http://p:1", "http_proxy": "http://p:2", "NO_PROXY": "internal, .corp.example,exact.example"}
    assert forward_proxy_for("https://api.openai.com/v1", env) == "http://p:1"
    assert forward_proxy_for("http://api.openai.com/v1", env) == "http://p:2"
    for host in ("internal", "a.internal", "corp.example", "b.corp.example", "exact.example"):
        assert forward_proxy_for(f"https://{host}/v1", env) is None
    assert forward_proxy_for("https://notinternal.example/v1", env) == "http://p:1"
    assert forward_proxy_for("https://api.openai.com/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}) is None
    assert forward_proxy_for("https://api.openai.com/v1", {}) is None
    assert forward_proxy_for("https://api.openai.com/v1", {"HTTPS_PROXY": ""}) is None


@pytest.mark.parametrize("url", ["ftp://host/", "host", "http:///v1", "file:///etc/passwd", ""])
def test_an_upstream_is_http_or_https(url: str) -> None:
    """Anything else is refused where the configuration is read."""
    with pytest.raises(ValueError, match="not an http or https URL"):
        origin_of(url)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://host/v1", b"host"),
        ("http://host:80/v1", b"host"),
        ("https://host:443/v1", b"host"),
        ("https://host:80/v1", b"host:80"),
        ("http://[::1]:8000/v1", b"[::1]:8000"),
        ("http://[::1]/v1", b"[::1]"),
    ],
)
def test_the_host_field_follows_the_url(url: str, authority: bytes) -> None:
    """RFC 9110, section 7.2: without the scheme's own port, with brackets for IPv6."""
    assert origin_of(url).authority == authority


async def test_get_of_models_works_here(serve: Serve) -> None:
    """The fixture itself answers, so that the refusals above mean something."""
    async with serve() as plane, await plane.connect() as client:
        assert (await client.ask(get("/v1/models"))).status == 200
