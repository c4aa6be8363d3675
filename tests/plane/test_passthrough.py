"""What isn't understood passes byte for byte, both ways; what is understood, with nothing but the promised changes."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import UPSTREAM_KEY, entry, key
from tests.plane.test_metering import form
from tests.wire.raw import chat, chunks, get, post

BINARY = random.Random(5).randbytes(1 << 16)


class Upstream:
    """A server that keeps what it was sent, byte for byte, and answers with given bytes."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self.answers: list[bytes] = []
        self.slow: Callable[[asyncio.StreamReader], Awaitable[bytes]] | None = None
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append((head, await self._body(head, reader)))
                for answer in self.answers or [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]:
                    writer.write(answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        if self.slow is not None:
            return await self.slow(reader)
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if b"content-length" in lines:
            return await reader.readexactly(int(lines[b"content-length"]))
        body = b""
        while b"transfer-encoding" in lines and (size := int(await reader.readline(), 16)):
            body += (await reader.readexactly(size + 2))[:-2]
        if b"transfer-encoding" in lines:
            await reader.readline()
        return body

    @property
    def head(self) -> bytes:
        return self.seen[-1][0]

    @property
    def body(self) -> bytes:
        return self.seen[-1][1]


@asynccontextmanager
async def behind() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()


def answer(status: str, body: bytes = b"", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    "target",
    [
        "/v1/files",
        "/v1/files/file-1/content?a=1&b=%20%2f+x&&c",
        "/v1/x/%E6%B2%B3/a%2Fb?q=%00;=,!$'()*",
        "/v1/vector_stores/vs_1/files?after=a&limit=20",
    ],
)
async def test_any_path_and_method(serve: Serve, method: str, target: str) -> None:
    """Methods, paths, queries and their encoding arrive as the client wrote them; so do status and body come back."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer("207 Multi", BINARY, "content-type: application/x-thing", 'etag: "1"')]
        body = BINARY if method in ("POST", "PUT", "PATCH") else b""
        data = f"{method} {target} HTTP/1.1\r\nHost: weir\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        got = await plane.send(data, method)
        assert upstream.head.startswith(f"{method} {target} HTTP/1.1\r\n".encode())
        assert upstream.body == body
        assert (got.status, got.body, got.header(b"etag")) == (207, BINARY, b'"1"')
        assert got.header(b"content-type") == b"application/x-thing"
        assert plane.settled()["nanodollars"] == 0


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_large_uploads_stream(serve: Serve, chunked: bool) -> None:
    """20 MB go up without being held: the upstream has the first of it before the client has sent the last."""
    size, pieces = 20 * 2**20, 320
    first_arrived = asyncio.Event()
    seen = hashlib.sha256()

    async def slow(reader: asyncio.StreamReader) -> bytes:
        got = 0
        while got < size:
            line = await reader.readline() if chunked else b""
            data = await reader.readexactly(int(line, 16) + 2) if chunked else await reader.read(1 << 16)
            data = data[:-2] if chunked else data
            got += len(data)
            seen.update(data)
            first_arrived.set()
        if chunked:
            await reader.readexactly(5)
        return b""

    async with behind() as upstream, serve(url=upstream.url, limits={"in_flight_bytes": "1 MiB"}) as plane:
        upstream.slow = slow
        sent = hashlib.sha256()
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        async with await plane.connect() as client:
            await client.send(f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            for number in range(pieces):
                piece = BINARY if number % 2 else BINARY[::-1]
                sent.update(piece)
                await client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if number == 0:
                    await first_arrived.wait()
            if chunked:
                await client.send(b"0\r\n\r\n")
            assert (await client.answer()).status == 200
    assert seen.hexdigest() == sent.hexdigest()


async def test_large_downloads_stream(serve: Serve) -> None:
    """20 MB come down unchanged, and a slow client holds the upstream back instead of filling memory."""
    body = BINARY * 320
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer("200 OK", body, "content-type: application/octet-stream")]
        async with await plane.connect(receive_buffer=65536) as client:
            await client.send(get("/v1/files/file-1/content"))
            got = await client.answer("GET")
    assert (got.whole, hashlib.sha256(got.body).digest()) == (True, hashlib.sha256(body).digest())


async def test_forms_and_odd_bodies(serve: Serve) -> None:
    """A form, a body that is no JSON, a chunked body: as they are, with their type."""
    body, kind = form({"purpose": "x"}, ("file", "naïve 河.bin", BINARY))
    async with behind() as upstream, serve(url=upstream.url) as plane:
        await plane.send(post("/v1/files", body, f"content-type: {kind}"))
        assert upstream.body == body
        assert f"content-type: {kind}\r\n".encode() in upstream.head
        await plane.send(
            b"POST /v1/other HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"ab", b"c" * 70000)
        )
        assert upstream.body == b"ab" + b"c" * 70000


async def test_understood_bodies_keep_their_bytes(serve: Serve) -> None:
    """JSON that is read isn't written anew: spaces, order, unknown fields and escapes stay."""
    body = (
        b'{ "zz" : [1.50, 1e2],"model":"gpt-4o",\n"messages":[{"role":"user","content":"\\u6cb3 \\/ \xe6\xb2\xb3"}] }'
    )
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer("200 OK", b'{"choices":[]}', "content-type: application/json")]
        await plane.send(post("/v1/chat/completions", body))
        assert upstream.body == body
        await plane.send(post("/v1/chat/completions", body.replace(b'"zz"', b'"stream":true,"zz"')))
        injected = body.replace(b'"zz"', b'"stream":true,"zz"').replace(
            b"{ ", b'{"stream_options":{"include_usage":true}, ', 1
        )
        assert upstream.body == injected


async def test_fields_of_requests(serve: Serve) -> None:
    """Fields of the API pass; those of the hop, of the proxy itself, and a client's word about who it is don't."""
    theirs = [
        "openai-organization: org-1",
        "OpenAI-Beta: assistants=v2",
        "idempotency-key: k",
        "user-agent: sdk/1",
        "x-a: 1",
    ]
    hop = [
        "connection: keep-alive, x-hop",
        "x-hop: 1",
        "te: trailers",
        "proxy-authorization: x",
        "keep-alive: timeout=5",
    ]
    own = ["x-weir-tags: a=b", "x-weir-whatever: 1", "x-forwarded-for: 10.0.0.1", "forwarded: for=1", "via: 1.1 x"]
    async with behind() as upstream, serve(url=upstream.url) as plane:
        await plane.send(get("/v1/files", *theirs, *hop, *own))
        lines = upstream.head.decode().lower().split("\r\n")
        assert all(line.lower() in lines for line in theirs)
        assert not any(
            line.startswith(("x-hop", "te:", "proxy-", "keep-alive", "x-weir", "x-forwarded", "forwarded", "via"))
            for line in lines
        )
        assert lines.count(f"authorization: bearer {UPSTREAM_KEY}".lower()) == 1
        host = f"host: {upstream.url.removeprefix('http://').removesuffix('/v1')}"
        assert [line for line in lines if line.startswith("host:")] == [host]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_without_a_body(serve: Serve, status: str) -> None:
    """204 and 304 pass, with their validators and without a body."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [f'HTTP/1.1 {status}\r\netag: "7"\r\n\r\n'.encode()]
        async with await plane.connect() as client:
            for _ in range(2):
                got = await client.ask(get("/v1/files/f/content", 'if-none-match: "7"'), "GET")
                assert (got.status, got.body, got.header(b"etag")) == (int(status[:3]), b"", b'"7"')
        assert b'if-none-match: "7"' in upstream.head


async def test_ranges(serve: Serve) -> None:
    """A part of a file is asked for and given as such."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        lines = ("content-range: bytes 2-4/9", "accept-ranges: bytes", "content-type: audio/mpeg")
        upstream.answers = [answer("206 Partial Content", b"cde", *lines)]
        got = await plane.get("/v1/files/f/content", "range: bytes=2-4")
        assert b"range: bytes=2-4\r\n" in upstream.head
        assert (got.status, got.body, got.header(b"content-range")) == (206, b"cde", b"bytes 2-4/9")


async def test_head(serve: Serve) -> None:
    """HEAD tells the length that GET would have, and its connection goes on being used."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\ncontent-type: audio/mpeg\r\n\r\n"]
        async with await plane.connect() as client:
            for _ in range(2):
                got = await client.ask(get("/v1/files/f/content", method="HEAD"), "HEAD")
                assert (got.status, got.body, got.header(b"content-length")) == (200, b"", b"12345")


async def test_encodings_pass(serve: Serve) -> None:
    """What isn't read may be packed as client and upstream agree."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer("200 OK", BINARY, "content-encoding: br", "vary: accept-encoding")]
        got = await plane.get("/v1/files/f/content", "accept-encoding: br, zstd")
        assert b"accept-encoding: br, zstd\r\n" in upstream.head
        assert (got.header(b"content-encoding"), got.body) == (b"br", BINARY)


@pytest.mark.parametrize("last", [b"", b"data: not finished", b"data: x\r\n\r"])
async def test_foreign_event_streams(serve: Serve, last: bytes) -> None:
    """Events of an endpoint that isn't understood are bytes like any other, whatever their form and end."""
    body = b"\xef\xbb\xbfid: 1\r\ndata: {broken\r\n\r\n: comment\n\nevent: x\rdata: y\r\r" + last
    async with behind() as upstream, serve(url=upstream.url) as plane:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        upstream.answers = [head, *(b"1\r\n%c\r\n" % byte for byte in body), b"0\r\n\r\n"]
        got = await plane.send(post("/v1/threads/runs", b"{}"))
        assert (got.status, got.whole, got.body) == (200, True, body)


@pytest.mark.parametrize("status", ["400 Bad", "404 Not Found", "500 Oops", "302 Found"])
@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"x" * 3_000_000], ids=["html", "empty", "long"])
async def test_failures_are_json(serve: Serve, status: str, body: bytes) -> None:
    """No page of HTML reaches a client of an API, however long it is."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer(status, body, "content-type: text/html", "location: http://127.0.0.1:9/")]
        got = await plane.get("/v1/files/f")
        assert got.status == {"4": int(status[:3]), "5": 502, "3": 502}[status[0]]
        assert got.error["message"]
        assert got.header(b"location") is None


async def test_pages_of_html_as_long_answers(serve: Serve) -> None:
    """Row 28, also where the page is too long to be held."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [answer("200 OK", b"<html>" * 500_000, "content-type: text/html")]
        got = await plane.chat()
        assert (got.status, got.error["code"]) == (502, "upstream_not_an_answer")


async def test_long_downloads_that_break(serve: Serve) -> None:
    """A download that breaks is cut, so that nobody takes it for whole."""
    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n" + b"x" * 3_000_000]

        async with await plane.connect() as client:
            await client.send(get("/v1/files/f/content"))
            begun = await client.read_until(b"xxxx")
            upstream.answers = []
            for task in asyncio.all_tasks():
                if "Upstream.serve" in repr(task):
                    task.cancel()
            rest = await client.rest()
        assert not (begun + rest).endswith(b"0\r\n\r\n")
        await plane.quiet()
        assert plane.settled()["outcome"] == "partial"


# --- what the proxy adds and answers itself


async def test_own_fields(serve: Serve) -> None:
    """An answer names its exchange, the model that served it, its cost, and who acted."""
    policies = [entry("headers", response={"add": {"x-served-by": "weir"}}, name="sign")]
    async with serve(policies=policies) as plane:
        got = await plane.chat()
        ended = plane.ended()
    assert got.header(b"x-weir-exchange") == ended["exchange"].encode()
    assert (got.header(b"x-weir-model") or b"").startswith(b"gpt-4o-mini")
    assert float(got.header(b"x-weir-cost") or 0) == ended["nanodollars"] / 1e9
    assert got.header(b"x-served-by") == b"weir"
    assert got.header(b"openai-version") == b"2020-10-01"
    assert len([name for name, _ in got.headers if name == b"date"]) <= 1


@pytest.mark.parametrize("refused", [False, True])
async def test_every_own_answer_is_dated(serve: Serve, refused: bool) -> None:
    """RFC 9110, 6.6.1: what the proxy says itself has a date."""
    async with serve() as plane:
        got = await plane.chat(fault="error-500") if refused else await plane.get("/weir/me")
    assert len([name for name, _ in got.headers if name == b"date"]) == 1


async def test_me_and_exchanges(serve: Serve) -> None:
    """A key sees what it is, and its own exchanges; nobody else's, and not that they exist."""
    keys = [key("wk-1", "key-1", team="a", tags={"env": "x"}), key("wk-2", "key-2", team="b")]
    async with serve(keys=keys) as plane:
        one, two = "authorization: Bearer wk-1", "authorization: Bearer wk-2"
        got = await plane.chat(one)
        me = await plane.get("/weir/me", one)
        assert me.json["tenant"] == "-/a"
        assert me.json["tags"] == {"env": "x"}
        assert me.json["usage"]
        path = f"/weir/exchanges/{(got.header(b'x-weir-exchange') or b'').decode()}"
        assert (await plane.get(path, one)).json["exchange"] in path
        other = await plane.get(path, two)
        unknown = await plane.get("/weir/exchanges/nonsense", two)
        assert (other.status, unknown.status) == (404, 404)
        assert other.body == unknown.body
        assert (await plane.get("/weir/me")).status == 401
        assert (await plane.get("/weir/me", one, method="DELETE")).status == 405
        assert (await plane.get("/weir/nothing", one)).status == 404


async def test_models_are_merged(serve: Serve, simulator: Simulator) -> None:
    """The file's names and what its pattern lets through, each once; a key sees those that it may use."""
    models = {"house": {"upstream": "up", "model": "gpt-4o"}, "gpt-4o": {"upstream": "up"}, "*": {"upstream": "up"}}
    keys = [key("wk-1", "key-1"), key("wk-2", "key-2", models=["house", "gpt-4.1*"])]
    async with serve(keys=keys, models=models) as plane:
        everything = [
            model["id"] for model in (await plane.get("/v1/models", "authorization: Bearer wk-1")).json["data"]
        ]
        assert everything[:2] == ["house", "gpt-4o"]
        assert len(everything) == len(set(everything)) > 5
        some = [model["id"] for model in (await plane.get("/v1/models", "authorization: Bearer wk-2")).json["data"]]
        assert some[0] == "house"
        assert all(name == "house" or name.startswith("gpt-4.1") for name in some)
        assert (await plane.get("/v1/models/house", "authorization: Bearer wk-2")).json["id"] == "house"
        assert (await plane.get("/v1/models/gpt-4o", "authorization: Bearer wk-2")).status == 404
        assert (await plane.get("/v1/models/gpt-4o-mini", "authorization: Bearer wk-2")).status == 404
        assert (await plane.get("/v1/models/gpt-4o-mini", "authorization: Bearer wk-1")).status == 200


async def test_closed_list_of_models(serve: Serve, simulator: Simulator) -> None:
    """Without a pattern, the file's names are all there is."""
    async with serve(models={"house": {"upstream": "up", "model": "gpt-4o"}}) as plane:
        assert [model["id"] for model in (await plane.get("/v1/models")).json["data"]] == ["house"]
        got = await plane.chat()
        assert (got.status, got.error["code"], got.error["param"]) == (404, "model_not_found", "model")
        assert (await plane.chat(model="house")).json["model"].startswith("gpt-4o")
        assert (await plane.get("/v1/models/gpt-4o")).status == 404


@pytest.mark.parametrize(
    ("lines", "status"), [(["authorization: Bearer no"], 401), (["content-type: text/plain"], 401), ([], 401)]
)
async def test_errors_of_anthropics_form(serve: Serve, lines: list[str], status: int) -> None:
    """Anthropic's clients find `type: error` in every refusal of their endpoints."""
    async with serve(keys=[key("wk-1")]) as plane:
        got = await plane.send(post("/v1/messages", b"{}", *lines))
        assert (got.status, got.json["type"]) == (status, "error")
        for body in (b"{", b'{"model": 1}', b""):
            got = await plane.send(post("/v1/messages", body, "x-api-key: wk-1"))
            assert (got.status, got.json["type"]) == (400, "error")


async def test_cors(serve: Serve) -> None:
    """Pages of allowed origins may ask and read; others get no permission."""
    cors = {"origins": ["https://app.example"]}
    async with serve(cors=cors, keys=[key("wk-1")]) as plane:
        page, other = "origin: https://app.example", "origin: https://evil.example"
        asked = ("access-control-request-method: POST", "access-control-request-headers: authorization, x-a")
        ready = await plane.get("/v1/chat/completions", page, *asked, method="OPTIONS")
        assert ready.status == 204
        assert ready.header(b"access-control-allow-origin") == b"https://app.example"
        assert ready.header(b"access-control-allow-headers") == b"authorization, x-a"
        denied = await plane.get("/v1/chat/completions", other, *asked, method="OPTIONS")
        assert denied.header(b"access-control-allow-origin") is None
        for got in (
            await plane.chat(page, "authorization: Bearer wk-1"),
            await plane.chat(page, "authorization: Bearer wk-1", stream=True),
            await plane.chat(page, "authorization: Bearer no"),
            await plane.chat(page, "authorization: Bearer wk-1", fault="error-500"),
        ):
            assert got.header(b"access-control-allow-origin") == b"https://app.example"
        assert (await plane.chat(other, "authorization: Bearer wk-1")).header(b"access-control-allow-origin") is None


async def test_a_slow_client_is_no_idle_upstream(serve: Serve) -> None:
    """While a client doesn't read, nothing is read from the upstream either: its silence is ours."""
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000)
    body = chunk * 1500 + b"data: [DONE]\n\n"
    timeouts = {"stream_idle_s": 0.1, "slow_reader_s": 5}
    async with behind() as upstream, serve(url=upstream.url, timeouts=timeouts) as plane:
        upstream.answers = [answer("200 OK", body, "content-type: text/event-stream")]
        async with await plane.connect(receive_buffer=1 << 16) as client:
            await client.send(post("/v1/chat/completions", chat(True), "connection: close"))
            begun = await client.read_until(b"data: ")
            until = asyncio.get_running_loop().time() + 0.6
            while asyncio.get_running_loop().time() < until:  # several times the idle limit
                assert plane.journal("settled") == []
                await asyncio.sleep(0.05)
            pieces = [begun]
            while piece := await client.read():
                pieces.append(piece)
        assert plane.settled()["outcome"] == "complete"
    assert b"".join(pieces).count(b"delta") == 1500


@pytest.mark.parametrize("status", [413, 200])
async def test_an_answer_before_the_upload_ended(serve: Serve, status: int) -> None:
    """An upstream may answer before it has read all: the client gets that answer, not an error of ours."""

    async def early(reader: asyncio.StreamReader) -> bytes:
        await reader.readexactly(1000)
        return b""

    async with behind() as upstream, serve(url=upstream.url) as plane:
        upstream.slow = early
        told = b'{"error": {"message": "Too large", "type": "x", "param": null, "code": null}}'
        upstream.answers = [answer(f"{status} X", told, "content-type: application/json")]
        async with await plane.connect() as client:
            await client.send(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
            sending = asyncio.create_task(client.send(b"x" * 30_000_000))
            got = await client.answer()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert (got.status, got.body) == (status, told)


async def test_a_stalled_upload_upstream(serve: Serve) -> None:
    """An upstream that stops taking an upload is a timeout, not a fault of ours."""

    async def never(reader: asyncio.StreamReader) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with behind() as upstream, serve(url=upstream.url, timeouts={"stream_idle_s": 0.2, "total_s": 5}) as plane:
        upstream.slow = never
        async with await plane.connect() as client:
            await client.send(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
            sending = asyncio.create_task(client.send(b"x" * 30_000_000))
            got = await client.answer()
            sending.cancel()
        assert (got.status, got.error["code"]) == (504, "upstream_timeout")
        assert plane.ended()["status"] == 504
