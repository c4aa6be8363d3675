"""The upstream's side through the whole data plane: kept connections, redirects, what doesn't cross, odd framings."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.clients.keys import KeyRecord
from proxy.simulator import Simulator
from tests.patience import PATIENCE_S
from tests.plane.running import UPSTREAM_KEY
from tests.wire.conftest import SECRET, Serve, record
from tests.wire.raw import chat, chunks, get, post

JSON = (
    b'{"id":"x","object":"chat.completion","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(JSON), JSON)
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[str]:
    """An upstream that does what `script` says with each connection."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()


async def request(reader: asyncio.StreamReader) -> bytes:
    """One request with a length, as it came."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")), 0)
    return head + await reader.readexactly(length)


def answering(*answers: bytes) -> Script:
    """Answers each request on a connection with the next of `answers`, then closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await request(reader)
            writer.write(answer)

    return script


# --- kept connections


async def test_requests_share_a_connection(simulator: Simulator, serve: Serve) -> None:
    """One after another they use the same one."""
    async with serve(upstream={"pool": {"warm": 0}}) as plane, await plane.connect() as client:
        for _ in range(5):
            assert (await client.ask(post(body=chat()))).status == 200
        for _ in range(3):
            assert (await client.ask(post(body=chat(True)))).whole
        assert simulator.state.connections_opened == 1


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [("close-idle", ["complete", "complete"]), ("close-idle:next", ["complete", "failed", "complete"])],
)
async def test_a_dead_kept_connection_is_replaced(
    simulator: Simulator, serve: Serve, fault: str, outcomes: list[str]
) -> None:
    """Row 15: the upstream closed it while idle or as the request came; the request goes again, once, on a new one."""
    async with serve(upstream={"pool": {"warm": 0}}) as plane, await plane.connect() as client:
        assert (await client.ask(post("/v1/chat/completions", chat(), f"x-sim-fault: {fault}"))).status == 200
        assert (await client.ask(post(body=chat()))).status == 200
        assert simulator.state.connections_opened == 2
        settled = [record for record in plane.journal() if record["event"] == "settled"]
        assert [record["outcome"] for record in settled] == outcomes


async def test_a_new_connection_that_dies_is_not_tried_again(serve: Serve) -> None:
    """Only a kept connection may have been dead; on a new one the upstream may have read the request and billed it."""
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request(reader))

    async with (
        scripted(script) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        answer = await client.ask(post(body=chat()))
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert answer.header(b"x-should-retry") == b"false"
    assert len(seen) == 1


async def test_a_kept_connection_that_had_begun_to_answer_is_not_tried_again(serve: Serve) -> None:
    """One byte of an answer, even of 100 Continue, means that the request was read."""
    for begun in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"):
        seen: list[bytes] = []

        async def script(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes] = seen, begun: bytes = begun
        ) -> None:
            seen.append(await request(reader))
            writer.write(WHOLE)
            seen.append(await request(reader))
            writer.write(begun)

        async with (
            scripted(script) as url,
            serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
            await plane.connect() as client,
        ):
            assert (await client.ask(post(body=chat()))).status == 200
            assert (await client.ask(post(body=chat()))).status == 502
        assert len(seen) == 2, begun


async def test_a_stream_gives_its_connection_back(simulator: Simulator, serve: Serve) -> None:
    """Also where bytes follow the terminal event: they are dropped, and what they came on isn't trusted with more."""
    async with serve(upstream={"pool": {"warm": 0}}) as plane, await plane.connect() as client:
        for fault in ("after-done", "trailers", "informational", "close-delimited", "chunked", "crlf"):
            answer = await client.ask(post("/v1/chat/completions", chat(True), f"x-sim-fault: {fault}"))
            assert answer.whole
            assert answer.body.count(b"[DONE]") == 1, fault
            assert b"late" not in answer.body
        assert simulator.state.completed + simulator.state.cancelled == 6


async def test_at_most_max_connections(simulator: Simulator, serve: Serve) -> None:
    """Twenty requests at once over two connections: all are answered."""
    async with serve(upstream={"pool": {"warm": 0, "max_connections": 2}}) as plane:
        clients = [await plane.connect() for _ in range(20)]
        answers = await asyncio.gather(*(client.ask(post(body=chat())) for client in clients))
        assert [answer.status for answer in answers] == [200] * 20
        assert simulator.state.connections_opened <= 2
        for client in clients:
            client.close()


async def test_all_connections_busy_is_a_503(simulator: Simulator, serve: Serve) -> None:
    """Who waits longer than the connect time limit hears it, with Retry-After."""
    upstream = {"pool": {"warm": 0, "max_connections": 1}, "timeouts": {"connect_s": "500ms"}}
    async with serve(upstream=upstream) as plane, await plane.connect() as one, await plane.connect() as two:
        await one.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers"))
        await simulator.until(lambda state: state.active == 1)
        answer = await two.ask(post(body=chat()))
        assert (answer.status, answer.error["code"]) == (503, "upstream_saturated")
        assert answer.header(b"retry-after") == b"1"


# --- framings


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(JSON[:9], JSON[9:]),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(JSON, trailer=b"X-T: v\r\n"),
        HEAD + b"Connection: close\r\n\r\n" + JSON,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nSet-Cookie: a=b\r\n\r\n" + WHOLE,
        WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        WHOLE + b"\r\n",
    ],
)
async def test_every_framing_is_the_same_answer(serve: Serve, answer: bytes) -> None:
    """By length, chunks with and without trailers, the connection's end, after a 1xx, and from HTTP/1.0."""
    async with (
        scripted(answering(answer)) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        told = await client.ask(post(body=chat()))
        assert (told.status, told.body, told.whole) == (200, JSON, True)
        assert told.header(b"content-length") == b"%d" % len(JSON)
        assert told.header(b"link") is None


@pytest.mark.parametrize("start", [b"0\r\nX-Endless: ", b"0\r\n", b"1;x="])
async def test_endless_trailers_of_an_upstream_are_cut_off(serve: Serve, start: bytes) -> None:
    """A trailer or a chunk extension that doesn't end is a 502, after little of it: a parser would hold all of it."""
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request(reader)
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(JSON), JSON) + start)
        while sent < 16 * 2**20:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with (
        scripted(script) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        answer = await client.ask(post(body=chat()))
        assert (answer.status, answer.error["code"]) == (502, "upstream_malformed")
        assert sent < 16 * 2**20


async def test_bytes_behind_an_answer_reach_nobody(serve: Serve) -> None:
    """A second answer that nobody asked for isn't given to the next request, whose connection is another."""
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await request(reader)
        writer.write(WHOLE + WHOLE.replace(b'"id":"x"', b'"id":"evil"'.replace(b"evil", b"y")))
        await request(reader)

    async with (
        scripted(script) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        for _ in range(3):
            assert (await client.ask(post(body=chat()))).json["id"] == "x"
    assert connections == 3


@pytest.mark.parametrize("kind", ["obs-fold", "bare-lf", "bare-cr", "bad-name", "space-colon", "nul", "no-colon"])
async def test_a_broken_header_of_an_upstream_is_a_502(serve: Serve, kind: str) -> None:
    """Row 34: nothing of it reaches the client."""
    async with serve() as plane, await plane.connect() as client:
        answer = await client.ask(post("/v1/chat/completions", chat(), f"x-sim-fault: header-crlf:{kind}"))
        assert (answer.status, answer.error["code"]) == (502, "upstream_malformed")
        assert answer.header(b"x-should-retry") == b"false"


@pytest.mark.parametrize("stream", [False, True])
async def test_cookies_and_hop_by_hop_fields_stay_behind(serve: Serve, stream: bool) -> None:
    """Row 34: an allow-list decides what crosses; what the upstream's Connection names doesn't."""
    async with serve() as plane, await plane.connect() as client:
        answer = await client.ask(post("/v1/chat/completions", chat(stream), "x-sim-fault: set-cookie"))
        assert answer.status == 200
        names = {name for name, _ in answer.headers}
        unwanted = {b"set-cookie", b"x-hop", b"keep-alive", b"proxy-authenticate", b"te", b"upgrade", b"alt-svc"}
        assert not names & (unwanted | {b"server", b"strict-transport-security", b"connection"})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(simulator: Simulator, serve: Serve, status: int) -> None:
    """Row 33: 502, and the address that it names isn't asked, nor told."""
    async with serve() as plane, await plane.connect() as client:
        fault = f"x-sim-fault: redirect:{status}:{simulator.origin}/v1/stolen"
        answer = await client.ask(post("/v1/chat/completions", chat(), fault))
        assert (answer.status, answer.error["code"]) == (502, "upstream_redirect")
        assert answer.header(b"location") is None
        assert simulator.state.requests == 1


# --- what the upstream is sent


async def test_what_is_sent_to_the_upstream(simulator: Simulator, serve: Serve) -> None:
    """Our credential and Host; the client's own fields; nothing of this hop, nothing that only we may say."""
    lines = (
        f"Authorization: Bearer {SECRET}",
        "OpenAI-Organization: org-1",
        "X-Custom: kept",
        "Connection: keep-alive, X-Nominated",
        "X-Nominated: dropped",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Authorization: Basic eDp5",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Host: evil",
        "Forwarded: for=1.2.3.4",
        "X-Real-IP: 1.2.3.4",
        "Via: 1.1 evil",
        "X-Weir-Tags: a=b",
        "Accept-Encoding: br, zstd",
        "Expect: 100-continue",
    )
    async with serve(keys=[record()]) as plane, await plane.connect() as client:
        assert (await client.ask(post("/v1/chat/completions", chat(), *lines))).status == 200
    sent = {name.lower(): value for name, value in simulator.requests[-1].headers}
    assert sent.pop(b"authorization") == f"Bearer {UPSTREAM_KEY}".encode()
    assert sent.pop(b"host") == f"127.0.0.1:{simulator.port}".encode()
    assert sent.pop(b"accept-encoding") == b"identity"
    assert sent.pop(b"openai-organization") == b"org-1"
    assert sent.pop(b"x-custom") == b"kept"
    assert set(sent) == {b"content-type", b"content-length"}


@pytest.mark.parametrize("keys", [[], [record()]], ids=["open", "required"])
async def test_one_credential_goes_out(simulator: Simulator, serve: Serve, keys: list[KeyRecord]) -> None:
    """The upstream's key replaces every form of the client's."""
    async with serve(keys=keys) as plane, await plane.connect() as client:
        for line in (f"Authorization: Bearer {SECRET}", f"x-api-key: {SECRET}", f"api-key: {SECRET}"):
            assert (await client.ask(post("/v1/chat/completions", chat(), line))).status == 200
            fields = simulator.requests[-1].headers
            assert [value for name, value in fields if SECRET.encode() in value] == []
            assert [value for _, value in fields if UPSTREAM_KEY.encode() in value] == [
                f"Bearer {UPSTREAM_KEY}".encode()
            ]


async def test_an_upload_streams_through(simulator: Simulator, serve: Serve) -> None:
    """4 MiB in chunks arrive byte for byte; the proxy holds none of it."""
    body = bytes(range(256)) * 16384
    async with serve() as plane, await plane.connect() as client:
        head = b"POST /v1/other HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(body[:100], body[100:]))
        await simulator.until(lambda state: state.requests == 1)
        assert simulator.requests[-1].length == len(body)
        assert plane.plane.in_flight.held == 0
        await client.answer()


async def test_an_upload_that_the_upstream_does_not_take_times_out(serve: Serve) -> None:
    """504, and no retry by the SDK: some of it was sent."""
    stop = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await stop.wait()

    upstream = {"pool": {"warm": 0}, "timeouts": {"stream_idle_s": "200ms"}}
    async with (
        scripted(script) as url,
        serve(upstream={"url": url, **upstream}) as plane,
        await plane.connect() as client,
    ):
        head = b"POST /v1/other HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        sending = asyncio.create_task(client.send(head + b"Content-Length: 40000000\r\n\r\n" + b"x" * 40_000_000))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert answer.header(b"x-should-retry") == b"false"
        await sending  # what was still to come is read and thrown away, so that the answer survives
        stop.set()


async def test_an_early_answer_ends_an_upload(serve: Serve) -> None:
    """An upstream that refuses in the middle of an upload is heard at once."""
    refusal = b'{"error":{"message":"no","type":"t","param":null,"code":null}}'

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(refusal), refusal))
        await reader.read()

    async with (
        scripted(script) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        await client.send(post("/v1/other", b"x" * 1000, "Content-Type: text/plain")[:-500])
        answer = await client.answer()
        assert (answer.status, answer.body, answer.header(b"connection")) == (400, refusal, b"close")
        assert await client.closed()


async def test_head_passes(serve: Serve) -> None:
    """A HEAD to the upstream is answered with the length that GET's answer would have, and without a body."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1234\r\n\r\n"
    async with (
        scripted(answering(head, WHOLE)) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect() as client,
    ):
        answer = await client.ask(get("/v1/other", method="HEAD"), "HEAD")
        assert (answer.status, answer.body, answer.header(b"content-length")) == (200, b"", b"1234")
        assert (await client.ask(post(body=chat()))).body == JSON


async def test_a_slow_reader_pauses_the_upstream(serve: Serve) -> None:
    """While the client reads nothing the upstream can't send: what is held in between is bounded; then all arrives."""
    event = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    piece = event % (b"y" * 8000)
    stalled = asyncio.Event()
    written = sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written, sent
        await request(reader)
        writer.write(EVENTS)
        while not stalled.is_set():  # how much that takes is the kernel's choice
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            written += 1
            try:
                await asyncio.wait_for(writer.drain(), 0.3)
            except TimeoutError:
                stalled.set()
                await writer.drain()
            sent += len(piece)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        await reader.read()

    async with (
        scripted(script) as url,
        serve(upstream={"url": url, "pool": {"warm": 0}}) as plane,
        await plane.connect(receive_buffer=8192) as client,
    ):
        await client.send(post(body=chat(True)))
        await asyncio.wait_for(stalled.wait(), PATIENCE_S)
        (connection,) = plane.connections
        assert connection._transport.get_write_buffer_size() <= 256 * 1024 + 256 * 1024 + 16384
        assert sent < written * len(piece)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        seen = bytearray()
        while not seen.endswith(b"0\r\n\r\n"):
            seen += await client.read()
        assert seen.count(b'yyyy"}}]}') == written
        assert seen.count(b"[DONE]") == 1
