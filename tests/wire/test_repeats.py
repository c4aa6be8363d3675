"""Requests whose head is like the one before on their connection: what was found out holds as long as it may."""

from __future__ import annotations

import time

from proxy.simulator import Simulator
from tests.wire.conftest import SECRET, Serve, record
from tests.wire.raw import chat, chunks, get, post
from tests.wire.serving import App, serving

KEY = f"Authorization: Bearer {SECRET}"


async def test_bodies_of_any_framing_follow_the_same_head() -> None:
    """Longer, shorter, none, in chunks, and back: each is read by its own framing."""
    async with serving() as server, await server.connect() as client:
        chunked = b"POST / HTTP/1.1\r\nHost: weir\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(2):
            for body in (b"five5", b"", b"x" * 1000, b"a"):
                assert (await client.ask(post("/", body))).body == body
            for _ in range(2):
                assert (await client.ask(chunked + chunks(b"in ", b"chunks"))).body == b"in chunks"
            bare = b"POST / HTTP/1.1\r\nHost: weir\r\nContent-Type: application/json\r\n\r\n"
            assert (await client.ask(bare)).body == b""


async def test_the_limit_holds_for_every_body() -> None:
    """A head that passed with a small body doesn't let a large one in."""
    async with serving(App(limit_bytes=100)) as server, await server.connect() as client:
        for size in (10, 100):
            assert (await client.ask(post("/", b"x" * size))).status == 200
        assert (await client.ask(post("/", b"x" * 101))).status == 413


async def test_small_differences_are_differences() -> None:
    """Method, query, version, a field's value, its case and order: each request is seen as it was sent."""
    sent = [
        get("/a"),
        get("/a"),
        get("/a?"),
        get("/a", method="DELETE"),
        get("/a", "X: 1"),
        get("/a", "X: 2"),
        get("/a", "X: 2", "Y: 3"),
        get("/a", "Y: 3", "X: 2"),
        get("/a"),
    ]
    async with serving() as server, await server.connect() as client:
        for each in sent:
            assert (await client.ask(each)).status == 200
        seen = [(s.method, s.target, s.headers[1:]) for s in server.app.seen]
    x1, x2, y3 = (b"x", b"1"), (b"x", b"2"), (b"y", b"3")
    plain = ("GET", b"/a", [])
    assert seen[:4] == [plain, plain, ("GET", b"/a?", []), ("DELETE", b"/a", [])]
    assert [fields for _, _, fields in seen[4:]] == [[x1], [x2], [x2, y3], [y3, x2], []]


async def test_connection_close_is_seen_every_time() -> None:
    """Also where the head was seen before on another connection's terms."""
    async with serving() as server, await server.connect() as client:
        for line in ((), ("Connection: keep-alive",), ("Connection: keep-alive",)):
            assert (await client.ask(get("/", *line))).header(b"connection") is None
        assert (await client.ask(get("/", "Connection: close"))).header(b"connection") == b"close"
        assert await client.closed()


async def test_an_upgrade_that_is_ignored_is_ignored_again() -> None:
    """Three times the same, with bodies."""
    lines = ("Upgrade: h2c", "Connection: Upgrade")
    async with serving() as server, await server.connect() as client:
        for body in (b"one", b"two", b""):
            assert (await client.ask(post("/", body, *lines))).body == body
        assert (await client.ask(post("/", b"plain"))).body == b"plain"


async def test_a_key_that_is_revoked_opens_nothing_more(serve: Serve, simulator: Simulator) -> None:
    """From the next request on, on a connection that was open before."""
    async with serve(keys=[record()]) as plane, await plane.connect() as client:
        for _ in range(3):
            assert (await client.ask(post("/v1/chat/completions", chat(), KEY))).status == 200
        plane.plane.generations.set_keys([record(revoked=time.time())])
        assert (await client.ask(post("/v1/chat/completions", chat(), KEY))).status == 401
        assert simulator.state.requests == 3


async def test_a_key_that_expires_opens_nothing_more(serve: Serve, simulator: Simulator) -> None:
    """Its time is looked at with every request."""
    expires = time.time() + 0.5
    async with (
        serve(keys=[record(expires=expires)]) as plane,
        await plane.connect() as client,
    ):
        statuses = []
        while not statuses or statuses[-1] == 200:
            statuses.append((await client.ask(post("/v1/chat/completions", chat(), KEY))).status)
            assert time.time() < expires + 10
        assert statuses[-1] == 401
        assert time.time() >= expires


async def test_a_key_with_other_rights_has_them_at_once(serve: Serve) -> None:
    """A key whose models change is held to the new list with its next request."""
    async with serve(keys=[record()]) as plane, await plane.connect() as client:
        assert (await client.ask(post("/v1/chat/completions", chat(), KEY))).status == 200
        plane.plane.generations.set_keys([record(models=["other"])])
        assert (await client.ask(post("/v1/chat/completions", chat(), KEY))).status == 403
