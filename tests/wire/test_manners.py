"""HTTP/1.1 and 1.0 as clients speak it: keep-alive, pipelines, chunks, expectations, upgrades (RFC 9110, RFC 9112)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.wire.call import BodyReader, Call, ServerLimits
from tests.wire.conftest import SECRET, Serve, record
from tests.wire.raw import chat, chunks, get, post
from tests.wire.serving import App, Gate, serving

CHUNKED = b"POST %b HTTP/1.1\r\nHost: weir\r\nTransfer-Encoding: chunked\r\n%b\r\n"


async def test_a_connection_answers_one_request_after_another() -> None:
    """Three requests on one connection, three answers, and it is still open."""
    async with serving() as server, await server.connect() as client:
        for body in (b"one", b"two", b""):
            answer = await client.ask(post("/", body))
            assert (answer.status, answer.body, answer.whole) == (200, body, True)
            assert answer.header(b"connection") is None
        assert len(server.connections) == 1


async def test_connection_close_is_obeyed_and_announced() -> None:
    """`Connection: close` in the request gives the same in the answer, and then FIN."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(post("/", b"x", "Connection: close"))
        assert answer.header(b"connection") == b"close"
        assert await client.closed()


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Fifty requests in one write, more than may wait, come back in order, each with its own body."""
    async with serving() as server, await server.connect() as client:
        await client.send(b"".join(post(f"/{n}", b"%d" % n) for n in range(50)))
        for n in range(50):
            answer = await client.answer()
            assert (answer.header(b"x-target"), answer.body) == (b"/%d" % n, b"%d" % n)


async def test_a_pipelined_request_waits_for_the_one_before() -> None:
    """The second of a pipeline starts only when the first has ended."""
    gate = Gate()
    async with serving(App(gate)) as server, await server.connect() as client:
        await client.send(get("/1") + get("/2"))
        await server.app.until(lambda app: app.running == 1)
        gate.open.set()
        assert [(await client.answer()).header(b"x-target") for _ in range(2)] == [b"/1", b"/2"]
        assert [seen.target for seen in server.app.seen] == [b"/1", b"/2"]


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GARBAGE\r\n\r\n", 400),
        (get("/refused"), 404),
        (get("/", "A: " + "x" * 9000), 431),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ],
)
async def test_an_error_in_a_pipeline_comes_in_its_place(bad: bytes, status: int) -> None:
    """What was asked before is answered first, in order; then comes the error, then FIN; what follows isn't read."""
    gate = Gate()
    async with serving(App(gate)) as server, await server.connect() as client:
        await client.send(get("/1") + get("/2") + get("/3") + bad + get("/4"))
        await server.app.until(lambda app: app.running == 1)
        gate.open.set()
        for n in (1, 2, 3):
            answer = await client.answer()
            assert (answer.status, answer.header(b"x-target")) == (200, b"/%d" % n)
        answer = await client.answer()
        assert (answer.status, answer.header(b"connection")) == (status, b"close")
        assert answer.error["message"]
        assert await client.closed()
        assert [seen.target for seen in server.app.seen] == [b"/1", b"/2", b"/3"]


async def test_a_last_request_may_close_a_pipeline() -> None:
    """`Connection: close` on the second of three: two answers, then the end."""
    async with serving() as server, await server.connect() as client:
        await client.send(get("/1") + get("/2", "Connection: close") + get("/3"))
        assert (await client.answer()).header(b"x-target") == b"/1"
        assert (await client.answer()).header(b"x-target") == b"/2"
        assert await client.closed()
        assert len(server.app.seen) == 2


@pytest.mark.parametrize("path", ["/gathered", "/upload"])
async def test_chunks_are_joined(path: str) -> None:
    """A chunked body, with extensions and trailers, arrives as its bytes; its trailers are no headers."""
    async with serving() as server, await server.connect() as client:
        body = b"5;name=value\r\nhello\r\n" + chunks(b" wide ", b"world", trailer=b"X-Trailer: t\r\nHost: evil\r\n")
        assert (await client.ask(CHUNKED % (path.encode(), b"") + body)).body == b"hello wide world"
        (seen,) = server.app.seen
        assert seen.header(b"x-trailer") is None
        assert seen.header(b"host") == b"weir"
        assert (await client.ask(get("/next"))).header(b"x-target") == b"/next"


async def test_an_upload_streams_while_it_comes() -> None:
    """The application sees the first piece of an upload before the last was sent."""
    first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def reading(call: Call) -> None:
        assert isinstance(call.body, BodyReader)
        size = 0
        async for piece in call.body:
            if not first.done():
                first.set_result(piece)
            size += len(piece)
        call.send(200, [], b"%d" % size)

    async with serving(App(reading)) as server, await server.connect() as client:
        await client.send(post("/upload/x", b"a" * 10)[:-4])
        assert (await first)[:1] == b"a"
        assert (await client.ask(b"aaaa")).body == b"10"


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    """The client hears 100 Continue, sends its body, and gets its answer (RFC 9110, section 10.1.1)."""
    async with serving() as server, await server.connect() as client:
        head, body = post("/", b"hello", "Expect: 100-continue")[:-5], b"hello"
        await client.send(head)
        assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await client.ask(body)
        assert (answer.status, answer.body) == (200, b"hello")


async def test_expect_is_answered_by_the_refusal_where_there_is_one() -> None:
    """A refused request gets its error instead of 100 Continue, and need not send its body."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(post("/refused", b"hello", "Expect: 100-continue")[:-5])
        assert (answer.status, answer.informational) == (404, [])


async def test_expect_of_an_old_client_is_ignored() -> None:
    """An HTTP/1.0 client gets no 100 Continue, which it would take for its answer."""
    async with serving() as server, await server.connect() as client:
        sent = post("/", b"hello", "Expect: 100-continue", version="1.0")
        await client.send(sent[:-5])
        await client.send(sent[-5:])
        answer = await client.answer()
        assert (answer.informational, answer.status, answer.body) == ([], 200, b"hello")


async def test_another_expectation_is_refused() -> None:
    """`Expect: the-unexpected` gets 417."""
    async with serving() as server, await server.connect() as client:
        assert (await client.ask(post("/", b"", "Expect: the-unexpected"))).status == 417


async def test_http_1_0_closes_by_default() -> None:
    """An HTTP/1.0 request without keep-alive is answered with a length, and the connection ends."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        assert (answer.status, answer.body) == (200, b"hi")
        assert await client.closed()


async def test_http_1_0_keep_alive_is_kept() -> None:
    """With `Connection: keep-alive` it stays, and is told so."""
    async with serving() as server, await server.connect() as client:
        for _ in range(2):
            answer = await client.ask(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
            assert (answer.body, answer.header(b"connection")) == (b"hi", b"keep-alive")


async def stream(call: Call) -> None:
    call.start(200, [(b"content-type", b"text/plain")])
    call.write(b"one ")
    call.write(b"two ")
    call.finish(b"three")


async def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    """No chunks for a client that doesn't know them: the body ends with FIN."""
    async with serving(App(stream)) as server, await server.connect() as client:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        raw = await client.rest()
        head, _, body = raw.partition(b"\r\n\r\n")
        assert body == b"one two three"
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head


async def test_a_stream_leaves_in_chunks() -> None:
    """Three pieces and an end; the connection goes on."""
    async with serving(App(stream)) as server, await server.connect() as client:
        for _ in range(2):
            answer = await client.ask(get("/"))
            assert (answer.body, answer.whole, answer.header(b"transfer-encoding")) == (
                b"one two three",
                True,
                b"chunked",
            )


async def test_an_empty_piece_does_not_end_a_stream() -> None:
    """A chunk of length 0 would be the end of the body, so none is written."""

    async def gappy(call: Call) -> None:
        call.start(200, [])
        for piece in (b"", b"a", b"", b"b"):
            call.write(piece)
        call.finish()

    async with serving(App(gappy)) as server, await server.connect() as client:
        answer = await client.ask(get("/"))
        assert (answer.body, answer.whole) == (b"ab", True)


async def test_head_gets_the_head_alone() -> None:
    """HEAD is answered with the length that GET would have, no body, and the next answer is not swallowed."""

    async def page(call: Call) -> None:
        call.send(200, [], b"twelve bytes")

    async with serving(App(page)) as server, await server.connect() as client:
        answer = await client.ask(get("/", method="HEAD"), "HEAD")
        assert (answer.status, answer.header(b"content-length"), answer.body) == (200, b"12", b"")
        assert (await client.ask(get("/"))).body == b"twelve bytes"


async def test_a_refused_head_gets_no_body() -> None:
    """Also an error to HEAD is its head alone."""
    async with serving() as server, await server.connect() as client:
        await client.send(get("/refused", method="HEAD"))
        raw = await client.rest()
        assert raw.startswith(b"HTTP/1.1 404 ")
        assert raw.endswith(b"\r\n\r\n")


async def test_absolute_form_is_reduced_to_its_path() -> None:
    """RFC 9112, section 3.2.2: a server must take `GET http://host/path`."""
    async with serving() as server, await server.connect() as client:
        for target, path in (("http://weir/a?b=c", b"/a?b=c"), ("https://weir:80/", b"/"), ("http://weir", b"/")):
            assert (await client.ask(get(target))).header(b"x-target") == path


@pytest.mark.parametrize("target", ["http://we ir/", "http:///path", "ftp://weir/", "weir", "*", "http://a@b/", "//"])
async def test_another_form_of_target_is_refused(target: str) -> None:
    """A target that is no path and no http URL gets 400."""
    async with serving() as server, await server.connect() as client:
        assert (await client.ask(get(target))).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/v1/x/../files",
        "/v1/./files",
        "/v1/x/%2e%2e/files",
        "/v1/x/%2E./files",
        "/v1/x%2f..%2ffiles",
        "/v1//files",
        "/v1/files/..",
        "/v1/x\\..\\files",
        "/v1/x/..%5cfiles",
        "/v1/%00",
        "/v1/a%0d%0ab",
    ],
)
async def test_a_path_that_can_be_read_two_ways_is_refused(path: str) -> None:
    """What upstreams may normalise to another path, which other rules hold for, gets 400."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(get(path))
        assert (answer.status, server.app.seen) == (400, [])


@pytest.mark.parametrize(
    "path", ["/v1/models/org%2Fname", "/v1/files/a%20b", "/v1/x.y/..z/.w", "/v1/models/?a=../..//"]
)
async def test_a_path_that_can_only_be_read_one_way_passes(path: str) -> None:
    """Escaped slashes, dots within names and anything in the query are as the client wrote them."""
    async with serving() as server, await server.connect() as client:
        assert (await client.ask(get(path))).header(b"x-target") == path.encode()


@pytest.mark.parametrize("lines", [("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")])
@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_an_upgrade_to_h2c_is_ignored(lines: tuple[str, ...], body: bytes) -> None:
    """The request is answered in HTTP/1.1, its body stays its body, and the connection goes on (RFC 9110, 7.8)."""
    async with serving() as server, await server.connect() as client:
        await client.send(post("/1", body, *lines) + post("/2", b"second"))
        first, second = await client.answer(), await client.answer()
        assert (first.status, first.header(b"x-target"), first.body) == (200, b"/1", body)
        assert (second.header(b"x-target"), second.body) == (b"/2", b"second")
        assert server.app.seen[0].header(b"upgrade") is None


async def test_an_upgrade_with_a_chunked_body_is_ignored() -> None:
    """As above, for a body in chunks, byte by byte."""
    async with serving() as server, await server.connect() as client:
        sent = CHUNKED % (b"/1", b"Upgrade: h2c\r\nConnection: upgrade, close\r\n") + chunks(b"hello")
        for at in range(len(sent)):
            await client.send(sent[at : at + 1])
        answer = await client.answer()
        assert (answer.body, answer.header(b"connection")) == (b"hello", b"close")
        assert await client.closed()


async def test_a_websocket_is_refused() -> None:
    """501 as JSON, then the end."""
    lines = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(get("/v1/realtime", *lines))
        assert (answer.status, answer.error["code"]) == (501, "websocket_unsupported")
        assert await client.closed()
        assert server.app.seen == []


async def test_spaces_around_values_are_no_part_of_them() -> None:
    """Optional white space at both ends (RFC 9110, section 5.5), also of what frames the request."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(b"POST / HTTP/1.1\r\nHost: \t weir \t\r\nContent-Length: \t 2 \r\n\r\nhi")
        assert (answer.status, answer.body) == (200, b"hi")
        answer = await client.ask(
            b"POST / HTTP/1.1\r\nHost: weir\r\nTransfer-Encoding: chunked \r\n\r\n" + chunks(b"ho")
        )
        assert (answer.status, answer.body) == (200, b"ho")


async def test_empty_lines_before_a_request_are_skipped() -> None:
    """RFC 9112, section 2.2: old clients send a line end after a body."""
    async with serving() as server, await server.connect() as client:
        for _ in range(3):
            assert (await client.ask(b"\r\n" + get("/"))).status == 200


@pytest.mark.parametrize("number", [99, 100])
async def test_as_many_headers_as_allowed_pass(number: int) -> None:
    """The limit of 100 counts every field, and 100 are allowed."""
    async with serving() as server, await server.connect() as client:
        answer = await client.ask(get("/", *[f"x-{n}: y" for n in range(number - 1)]))  # and Host
        assert (answer.status, len(server.app.seen[0].headers)) == (200, number)


async def test_a_long_line_passes_up_to_the_limit() -> None:
    """A header line of 8 KB passes and one over 8 KiB doesn't, whether it is name or value that is long."""
    for name, size, status in (("a", 8000, 200), ("a" * 4000, 4000, 200), ("a" * 8200, 1, 431), ("a", 8200, 431)):
        async with serving() as server, await server.connect() as client:
            assert (await client.ask(get("/", f"{name}: {'x' * size}"))).status == status


@pytest.mark.parametrize("step", [1, 7, 100, 4096])
async def test_limits_hold_at_every_split(step: int) -> None:
    """A target and a line near the limit pass however they are cut; those above it never do."""
    for size, status in ((8000, 200), (9000, 414)):
        async with serving(App(), ServerLimits()) as server, await server.connect() as client:
            sent = get("/" + "a" * size, "x: " + "b" * 8000)
            for at in range(0, len(sent), step):
                try:
                    await client.send(sent[at : at + step])
                except OSError:
                    break
            assert (await client.answer()).status == status


async def test_options_without_cors_tells_the_methods(serve: Serve) -> None:
    """OPTIONS needs no key and is answered by us."""
    async with serve(keys=[record()]) as plane, await plane.connect() as client:
        answer = await client.ask(get("/v1/chat/completions", "Origin: https://a.example", method="OPTIONS"))
        assert (answer.status, answer.body) == (204, b"")
        assert b"POST" in (answer.header(b"allow") or b"")
        assert answer.header(b"access-control-allow-origin") is None
        assert (await client.ask(get("*", method="OPTIONS"))).status == 204


KEY = f"Authorization: Bearer {SECRET}"
CORS = {"origins": ["https://a.example"]}
PREFLIGHT = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, x-custom")


async def test_a_preflight_is_answered_as_configured(serve: Serve) -> None:
    """An allowed origin hears so; another hears nothing."""
    async with serve(cors=CORS) as plane, await plane.connect() as client:
        ours = get("/v1/chat/completions", "Origin: https://a.example", *PREFLIGHT, method="OPTIONS")
        answer = await client.ask(ours)
        assert answer.status == 204
        assert answer.header(b"access-control-allow-origin") == b"https://a.example"
        assert b"POST" in (answer.header(b"access-control-allow-methods") or b"")
        assert b"authorization" in (answer.header(b"access-control-allow-headers") or b"").lower()
        theirs = get("/v1/chat/completions", "Origin: https://b.example", *PREFLIGHT, method="OPTIONS")
        assert (await client.ask(theirs)).header(b"access-control-allow-origin") is None


async def test_answers_and_errors_carry_cors(serve: Serve) -> None:
    """A page of an allowed origin may read answers, and errors too, wherever they arise."""
    async with serve(cors=CORS, keys=[record()]) as plane:
        origin = "Origin: https://a.example"
        for sent, status in (
            (post("/v1/chat/completions", chat(), origin, KEY), 200),
            (post("/v1/chat/completions", b"{", origin, KEY), 400),
            (post("/v1/chat/completions", chat(), origin), 401),
            (get("/nowhere", origin), 404),
        ):
            async with await plane.connect() as client:
                answer = await client.ask(sent)
                assert (answer.status, answer.header(b"access-control-allow-origin")) == (status, b"https://a.example")
