"""What a client may cost: time limits, sizes, bytes in flight, back-pressure, and the end by drain."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.simulator.certificates import Authority
from proxy.wire.call import BodyReader, Call, InFlight, ServerLimits
from tests.patience import PATIENCE_S
from tests.wire.raw import chunks, get, post
from tests.wire.serving import QUICK, TICK_S, App, Gate, echo, serving

MIB = 1 << 20
PATIENT = ServerLimits(keep_alive_s=5.0)


async def test_a_dripped_head_is_cut() -> None:
    """A head that isn't whole in time ends the connection without an answer, however steadily its bytes come."""
    async with serving(limits=QUICK) as server, await server.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        ended = asyncio.create_task(client.rest())
        while not ended.done():
            try:
                await client.send(b"x")
            except OSError:
                break
            await asyncio.wait((ended,), timeout=0.02)
        assert await ended == b""
        assert server.app.seen == []


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """Also without one byte."""
    async with serving(limits=QUICK) as server, await server.connect() as client:
        assert await client.closed()


async def test_an_idle_connection_is_closed() -> None:
    """After the keep-alive time, with FIN."""
    async with serving(limits=ServerLimits(keep_alive_s=0.1)) as server, await server.connect() as client:
        assert (await client.ask(get("/"))).status == 200
        assert await client.closed()


@pytest.mark.parametrize(
    ("path", "chunked", "size"),
    [("/", False, 5), ("/", True, 5), ("/upload", False, 5), ("/upload", True, 5), ("/", False, 600_000)],
)
async def test_a_stalled_body_gets_408(path: str, chunked: bool, size: int) -> None:
    """The answer says that the SDK must not retry; then the connection ends."""
    async with serving(limits=QUICK) as server, await server.connect() as client:
        if chunked:
            await client.send(
                b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe" % path.encode()
            )
        else:
            await client.send(post(path, b"h" * size)[:-2])
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert answer.header(b"x-should-retry") == b"false"
        assert await client.closed()


async def test_a_stalled_pipeline_neither_hangs_nor_hurts_the_one_that_runs() -> None:
    """The request that runs is answered; the one behind it, cut short, gets 408 in its place."""
    gate = Gate()
    async with serving(App(gate), QUICK) as server, await server.connect() as client:
        await client.send(get("/1") + post("/2", b"hello")[:-2])
        await until(lambda: server.connections and server.connection._discard)
        await asyncio.sleep(3 * TICK_S)
        gate.open.set()
        assert (await client.answer()).header(b"x-target") == b"/1"
        assert (await client.answer()).status == 408
        assert await client.closed()


async def test_half_a_head_behind_a_request_is_cut_too() -> None:
    """Nothing of a pipeline is beyond the time limits: a head that began during an exchange must end after it."""
    gate = Gate()
    async with serving(App(gate), QUICK) as server, await server.connect() as client:
        await client.send(get("/1") + b"GET /2 HT")
        await server.app.until(lambda app: app.running == 1)
        gate.open.set()
        assert (await client.answer()).status == 200
        assert await client.closed()


async def until(true, within_s: float = PATIENCE_S) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.005)


async def flood(call: Call) -> None:
    """Writes for ever, as fast as the client reads."""
    call.start(200, [])
    while True:
        call.write(b"x" * 65536)
        if call.paused:
            await call.drained()
        await asyncio.sleep(0)


async def test_a_client_that_reads_nothing_is_dropped() -> None:
    """After the time without progress its exchange is cancelled and its connection cut."""
    async with serving(App(flood), QUICK) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(get("/"))
        await server.app.until(lambda app: app.cancelled == 1)
        assert not server.connections


async def test_nothing_is_kept_for_a_client_that_was_dropped() -> None:
    """It is reset: by FIN the kernel would hold what it sent until the client had read all of it."""
    async with serving(App(flood), QUICK) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(get("/"))
        await server.app.until(lambda app: app.cancelled == 1)
        await until(lambda: not server.connections)
        left = f":{server.port:04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        held = [int(each[4].split(":")[0], 16) for each in sockets if each[1].endswith(left)]
        assert sum(held) == 0
        with pytest.raises(ConnectionResetError):
            while client.sock.recv(1 << 16):
                pass


async def test_a_client_that_reads_slowly_is_kept() -> None:
    """Progress, however slow, keeps the connection: only a client without any is dropped."""
    limits = ServerLimits(slow_reader_s=1.0, stream_buffer_bytes=1 << 16)
    async with serving(App(flood), limits) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(get("/"))
        await until(lambda: server.connection.write_paused)
        for _ in range(10):
            await asyncio.sleep(0.15)
            for _ in range(16):
                assert await client.read()
        assert server.app.cancelled == 0


@pytest.mark.parametrize("path", ["/", "/upload"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_drips_in_has_an_end(path: str, chunked: bool) -> None:
    """A byte at a time is never idle: it gets 408 when the whole time is over."""
    limits = ServerLimits(body_idle_s=5.0, total_s=0.3)
    async with serving(limits=limits) as server, await server.connect() as client:
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000000"
        await client.send(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % (path.encode(), framing))
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            try:
                await client.send(b"1\r\nx\r\n" if chunked else b"x")
            except OSError:
                break
            await asyncio.wait((answer,), timeout=0.02)
        assert ((await answer).status, (await answer).error["code"]) == (408, "request_timeout")


async def test_a_client_that_sips_is_dropped_in_the_end() -> None:
    """It makes progress for ever, but nothing that waits for it may wait for longer than the whole time."""
    app = App(flood)
    limits = ServerLimits(slow_reader_s=60.0, total_s=0.4)
    async with serving(app, limits) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(get("/"))
        await app.until(lambda app: app.running)
        while server.connections:
            client.sock.recv(1)
            await asyncio.sleep(0.01)
        await app.until(lambda app: app.cancelled)


async def test_a_client_that_reads_nothing_gets_no_further_answers() -> None:
    """While an answer waits to be read, the requests behind it aren't started: they can't pile up answers."""

    async def big(call: Call) -> None:
        call.send(200, [], b"x" * MIB)

    async with serving(App(big), PATIENT) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(b"".join(get(f"/{n}") for n in range(20)))
        await until(lambda: server.connection.write_paused)
        begun = len(server.app.seen)
        assert begun < 6  # the kernel's buffers hold a few
        sizes = [len((await client.answer()).body) for _ in range(20)]
        assert sizes == [MIB] * 20


async def test_a_slow_reader_pauses_the_writer() -> None:
    """The writer is told, and what is buffered stays about at the limit."""
    paused: list[bool] = []

    async def told(call: Call) -> None:
        call.on_pause = paused.append
        await flood(call)

    async with serving(App(told)) as server, await server.connect(receive_buffer=4096) as client:
        await client.send(get("/"))
        await until(lambda: paused == [True])
        assert server.connection._transport.get_write_buffer_size() <= 256 * 1024 + 65536 + 16
        while paused == [True]:
            await client.read()
        assert paused[:2] == [True, False]


async def test_an_upload_waits_for_its_reader() -> None:
    """The client can't send on while the application reads nothing, and nothing is lost when it does."""
    go = asyncio.Event()

    async def reading(call: Call) -> None:
        assert isinstance(call.body, BodyReader)
        await go.wait()
        size = 0
        async for piece in call.body:
            size += len(piece)
        call.send(200, [], b"%d" % size)

    app = App(reading, limit_bytes=64 * MIB)
    async with serving(app) as server, await server.connect() as client:
        sending = asyncio.create_task(client.send(post("/upload/x", b"x" * (32 * MIB))))
        await until(lambda: server.connections and server.connection._reading_paused)
        held = server.connection._running.body._held  # type: ignore[union-attr]
        assert held < MIB
        assert not sending.done()
        go.set()
        await sending
        assert (await client.answer()).body == b"%d" % (32 * MIB)


async def test_an_upload_that_its_reader_holds_up_is_not_called_stalled() -> None:
    """The body's time limit stands still while it is we who don't read."""
    limits = ServerLimits(body_idle_s=0.5)

    async def reading(call: Call) -> None:
        assert isinstance(call.body, BodyReader)
        await asyncio.sleep(limits.body_idle_s * 1.5)
        size = sum([len(piece) async for piece in call.body])
        call.send(200, [], b"%d" % size)

    app = App(reading, limit_bytes=64 * MIB)
    async with serving(app, limits) as server, await server.connect() as client:
        await client.send(post("/upload/x", b"x" * (16 * MIB)))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"%d" % (16 * MIB))


async def test_a_connection_goes_on_after_an_upload_that_was_held() -> None:
    """An upload whose last piece stopped the reading leaves a connection that reads."""

    async def late(call: Call) -> None:
        if isinstance(call.body, BodyReader):
            await asyncio.sleep(0.05)
            size = sum([len(piece) async for piece in call.body])
            call.send(200, [], b"%d" % size)
        else:
            await echo(call)

    app = App(late, limit_bytes=64 * MIB)
    async with serving(app, ServerLimits(stream_buffer_bytes=1000)) as server, await server.connect() as client:
        for size in (900, 1100, 3000):
            await client.send(post("/upload/x", b"x" * size))
            assert (await client.answer()).body == b"%d" % size
            assert (await client.ask(get("/next"))).header(b"x-target") == b"/next"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/", "/upload"])
async def test_a_body_too_large_gets_413_while_it_is_sent(path: str, chunked: bool) -> None:
    """A client that writes all of its 24 MiB before it reads still finds the answer."""
    async with serving(App(limit_bytes=MIB)) as server, await server.connect() as client:
        body = b"x" * (24 * MIB)
        if chunked:
            await client.send(b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode())
            await client.send(chunks(body))
        else:
            await client.send(post(path, body))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.header(b"connection") == b"close"
        assert await client.closed()
        assert server.app.in_flight.held == 0


async def test_bytes_in_flight_are_bounded() -> None:
    """Over the worker's bound a request gets 503 with Retry-After; when the others end, there is room again."""
    gate = Gate()
    app = App(gate, in_flight=InFlight(2 * MIB), limit_bytes=2 * MIB)
    async with serving(app) as server, await server.connect() as first, await server.connect() as second:
        await first.send(post("/1", b"x" * (3 * MIB // 2)))
        await app.until(lambda app: app.running == 1)
        refused = await second.ask(post("/2", b"x" * MIB))
        assert (refused.status, refused.error["code"], refused.header(b"retry-after")) == (503, "overloaded", b"1")
        assert app.in_flight.held == 3 * MIB // 2
        gate.open.set()
        assert len((await first.answer()).body) == 3 * MIB // 2
        await until(lambda: app.in_flight.held == 0)
        async with await server.connect() as third:
            assert (await third.ask(post("/3", b"x" * MIB))).status == 200


async def test_bytes_of_a_client_that_left_are_given_back() -> None:
    """Whether it left in the middle of its body, while it waited in a pipeline, or while it ran."""
    gate = Gate()
    app = App(gate)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(app))
        half, large, whole = [await stack.enter_async_context(await server.connect()) for _ in range(3)]
        await half.send(post("/1", b"x" * 1000)[:-10])
        await large.send(post("/1", b"x" * 600_000)[:-10])
        await whole.send(post("/2", b"y" * 1000) + post("/3", b"z" * 1000))
        await until(lambda: app.in_flight.held == 990 + 599_990 + 2000)
        for client in (half, large, whole):
            client.reset()
        await until(lambda: not server.connections)
        await until(lambda: app.in_flight.held == 0)


async def test_endless_trailers_are_cut_off() -> None:
    """What a parser holds without telling is counted: a trailer line that doesn't end gets 431."""
    async with serving(App(limit_bytes=MIB)) as server, await server.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Endless: ")
        answer = asyncio.create_task(client.answer())
        sent = 0
        while not answer.done() and sent < 8 * MIB:
            try:
                await client.send(b"x" * 65536)
            except OSError:
                break
            sent += 65536
            await asyncio.wait((answer,), timeout=0.001)
        assert (await answer).status == 431
        assert sent < MIB


async def test_endless_header_lines_are_cut_off() -> None:
    """The same for a header without end, and for one whose name doesn't end."""
    for start in (b"X-Endless: ", b"", b"X-Folded: a\r\n\t"):
        async with serving() as server, await server.connect() as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + start)
            answer = asyncio.create_task(client.answer())
            sent = 0
            while not answer.done() and sent < 8 * MIB:
                try:
                    await client.send(b"x" * 16384)
                except OSError:
                    break
                sent += 16384
                await asyncio.wait((answer,), timeout=0.001)
            assert (await answer).status in (400, 431)
            assert sent < MIB


async def test_a_lingering_close_ends() -> None:
    """A client that sends on after its refusal, without end, is cut within the limit all the same."""
    async with serving() as server, await server.connect() as client:
        await client.send(get("/refused"))
        assert (await client.answer()).status == 404
        assert await client.closed()  # FIN, while its own side is open
        (connection,) = server.connections
        await client.send(b"more")
        await until(lambda: connection.deadline < float("inf"))
        connection._linger_until = asyncio.get_running_loop().time()  # as if half a minute had passed
        with pytest.raises(OSError):
            for _ in range(1000):
                await client.send(b"more")
                await asyncio.sleep(0.01)
        assert not server.connections


# --- drain


async def test_a_drain_closes_idle_connections_and_ends_running_ones() -> None:
    """Idle: closed now. Running: answered, told `Connection: close`, then closed."""
    gate = Gate()
    async with serving(App(gate)) as server, await server.connect() as idle, await server.connect() as busy:
        await busy.send(get("/1"))
        await server.app.until(lambda app: app.running == 1)
        await until(lambda: len(server.connections) == 2)
        for connection in list(server.connections):
            connection.drain()
        assert await idle.closed()
        gate.open.set()
        answer = await busy.answer()
        assert (answer.status, answer.header(b"connection")) == (200, b"close")
        assert await busy.closed()


async def test_a_request_on_its_way_is_answered_during_a_drain() -> None:
    """A body that was being read when the drain began is read, answered, and the connection closed."""
    async with serving() as server, await server.connect() as client:
        sent = post("/", b"hello")
        await client.send(sent[:-2])
        await until(lambda: server.connections and server.connection._reading is not None)
        server.connection.drain()
        answer = await client.ask(sent[-2:])
        assert (answer.body, answer.header(b"connection")) == (b"hello", b"close")
        assert await client.closed()


async def test_a_stream_that_began_before_a_drain_is_finished() -> None:
    """Its head was out already; its end closes the connection."""
    go = asyncio.Event()

    async def stream(call: Call) -> None:
        call.start(200, [])
        call.write(b"one")
        await go.wait()
        call.finish(b"two")

    async with serving(App(stream)) as server, await server.connect() as client:
        await client.send(get("/"))
        await client.read_until(b"one\r\n")
        server.connection.drain()
        go.set()
        assert (await client.read_until(b"0\r\n\r\n")).endswith(b"3\r\ntwo\r\n0\r\n\r\n")
        assert await client.closed()


async def test_a_large_body_is_taken_whole_wherever_it_is_cut(tmp_path: Path) -> None:
    """A body of more than 256 KiB, in pieces of any size, with the next request right behind it."""
    seen: list[bytes] = []

    async def page(call: Call) -> None:
        assert isinstance(call.body, bytes)
        seen.append(call.body)
        call.send(200, [], b"%d" % len(call.body))

    body = bytes(range(256)) * 1200
    head = b"POST /large HTTP/1.1\r\nHost: weir\r\nContent-Length: %d\r\n\r\n" % len(body)
    after = b"POST /small HTTP/1.1\r\nHost: weir\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
    data = head + body + after
    for size in (70_001, 150_000, 262_144, len(head), len(head) + len(body) - 1, len(data)):
        async with serving(App(page)) as server, await server.connect() as client:
            for at in range(0, len(data), size):
                await client.send(data[at : at + size])
            raw = await client.rest()
        assert raw.count(b"HTTP/1.1 200 OK") == 2
        assert seen[-2:] == [body, b"hi"]
    authority = Authority(tmp_path)
    async with serving(App(page), ssl=authority.serving()) as server:
        trust = ssl.create_default_context(cafile=str(authority.path))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trust)
        writer.write(data)
        raw = await reader.read()
        writer.close()
    assert raw.count(b"HTTP/1.1 200 OK") == 2
    assert seen[-2:] == [body, b"hi"]


async def test_an_idle_connection_takes_one_more_request_during_a_drain() -> None:
    """Within `idle_s` its client may have sent already: that is answered, and told that it was the last."""
    async with serving() as server, await server.connect() as client:
        assert (await client.ask(get())).status == 200
        server.connection.drain(idle_s=60.0)
        answer = await client.ask(get())
        assert (answer.status, answer.header(b"connection")) == (200, b"close")
        assert await client.closed()


async def test_who_could_not_be_told_may_ask_once_more() -> None:
    """An answer whose head was sent before the drain can't say `close`; the next one can."""
    go = asyncio.Event()

    async def stream(call: Call) -> None:
        call.start(200, [])
        call.write(b"begun")
        await go.wait()
        call.finish()

    async with serving(App(stream)) as server, await server.connect() as client:
        await client.send(get())
        await client.read_until(b"begun")
        server.connection.drain(idle_s=60.0)
        go.set()
        await client.read_until(b"0\r\n\r\n")
        answer = await client.ask(get())
        assert (answer.status, answer.header(b"connection")) == (200, b"close")
        assert await client.closed()


async def test_idle_long_enough_is_closed_by_a_drain() -> None:
    """Who doesn't come back within `idle_s` finds the connection closed."""
    async with serving() as server, await server.connect() as client:
        assert (await client.ask(get())).status == 200
        server.connection.drain(idle_s=0.05)
        assert await client.closed()
