"""The table of abuse by clients, row by row: what is sent, what comes back, and that no secret is in it.

Against the real data plane with keys required. Every error is OpenAI's JSON. Rows that are about time are scaled down.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest

from proxy.simulator import Simulator
from tests.plane.running import UPSTREAM_KEY, Plane
from tests.wire.conftest import SECRET, Serve, record
from tests.wire.raw import Answer, Raw, chat, chunks, get, post

KEY = f"Authorization: Bearer {SECRET}"
PATH = "/v1/chat/completions"
SPOKEN, FORM = "/v1/audio/transcriptions", "Content-Type: multipart/form-data; boundary=b"
LIMITS = {"body_bytes": "200 KiB", "upload_bytes": "400 KiB"}


@pytest.fixture
async def plane(serve: Serve) -> AsyncIterator[Plane]:
    async with serve(keys=[record()], limits=LIMITS) as running:
        yield running


def hasty(serve: Serve, name: str) -> AbstractAsyncContextManager[Plane]:
    """A data plane of which one time limit is short, and none that another row is about."""
    return serve(keys=[record()], limits=LIMITS, timeouts={name: "200ms"})


def ask(body: bytes = b"", *lines: str, key: str = KEY) -> bytes:
    return post(PATH, body or chat(), *([key] if key else []), *lines)


async def refused(plane: Plane, sent: bytes, status: int, *, closed: bool | None = None) -> Answer:
    """The answer to `sent`, an error in OpenAI's form; `closed`: whether the connection ends after it."""
    async with await plane.connect() as client:
        answer = await client.ask(sent)
        assert answer.status == status, (answer.status, answer.body)
        error = answer.error
        assert isinstance(error["message"], str)
        assert error["message"]
        assert SECRET.encode() not in answer.body
        assert UPSTREAM_KEY.encode() not in answer.body
        if closed is not None:
            assert (answer.header(b"connection") == b"close") is closed
        if closed:
            assert await client.closed()
        elif closed is False:
            assert (await client.ask(ask())).status == 200
        return answer


# --- 1 to 3: credentials


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        ("1 no key", []),
        ("1 empty", ["Authorization: "]),
        ("1 no scheme", [f"Authorization: {SECRET}"]),
        ("1 Basic", ["Authorization: Basic d2VpcjpwYXNz"]),
        ("1 empty Bearer", ["Authorization: Bearer "]),
        ("1 unknown", ["Authorization: Bearer wk-unknown"]),
        ("1 upstream's own", [f"Authorization: Bearer {UPSTREAM_KEY}"]),
        ("2 two fields", [KEY, "Authorization: Bearer wk-other"]),
        ("2 the same twice", [KEY, KEY]),
        ("2 two kinds", [KEY, "x-api-key: wk-other"]),
        ("2 two API keys", ["x-api-key: a", "api-key: b"]),
        ("2 SQL", ["Authorization: Bearer ' OR '1'='1'; DROP TABLE keys; --"]),
        ("2 template", ["Authorization: Bearer {{7*7}}${jndi:ldap://127.0.0.1/x}"]),
        ("2 long", ["Authorization: Bearer " + "k" * 8000]),
    ],
)
async def test_rows_1_and_2_bad_credentials(plane: Plane, simulator: Simulator, row: str, lines: list[str]) -> None:
    """401, told how to do it right; the key isn't echoed, and nothing reaches the upstream."""
    answer = await refused(plane, post(PATH, chat(), *lines), 401)
    assert (answer.error["type"], answer.error["code"]) == ("authentication_error", "invalid_api_key")
    assert answer.header(b"www-authenticate") == b"Bearer"
    for line in lines:
        secret = line.split(" ")[-1]
        assert len(secret) < 6 or secret.encode() not in answer.body
    assert simulator.state.requests == 0


@pytest.mark.parametrize("byte", ["\x00", "\x01", "\x0b", "\x1b", "\x7f"])
async def test_row_3_control_byte_in_the_key(plane: Plane, byte: str) -> None:
    """400; neither answered nor logged nor journalled."""
    await refused(plane, ask(key=f"Authorization: Bearer canary{byte}key"), 400, closed=True)
    assert "canary" not in repr(plane.logged)
    assert "canary" not in repr(plane.journal())


# --- 4 to 16: the request's head and framing


def head(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([*lines, KEY.encode(), b"", b""]) + body


LINE = b"POST /v1/chat/completions HTTP/1.1"
HOST = b"Host: weir"
TYPE = b"Content-Type: application/json"
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("row", "sent", "status"),
    [
        ("4 Host x/#", head(b"GET /v1/models HTTP/1.1", b"Host: x/#"), 400),
        ("4 Host x/?", head(b"GET /v1/models HTTP/1.1", b"Host: x/?"), 400),
        ("4 Host with user", head(b"GET /v1/models HTTP/1.1", b"Host: a@b"), 400),
        ("4 Host with space", head(b"GET /v1/models HTTP/1.1", b"Host: a b"), 400),
        ("4 no Host", head(b"GET /v1/models HTTP/1.1"), 400),
        ("5 HTTP/0.9", b"GET /v1/models HTTP/0.9\r\n\r\n", 505),
        ("5 HTTP/0.9, bare", b"GET /v1/models\r\n\r\n", 505),
        ("6 HTTP/2.0", head(b"GET /v1/models HTTP/2.0", HOST), 505),
        ("6 HTTP/1.2", head(b"GET /v1/models HTTP/1.2", HOST), 505),
        ("6 HTTP/3.0", head(b"GET /v1/models HTTP/3.0", HOST), 505),
        ("7 CL and TE", head(LINE, HOST, TYPE, b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"), 400),
        ("7 TE and CL", head(LINE, HOST, TYPE, CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"), 400),
        ("8 two CL", head(LINE, HOST, TYPE, b"Content-Length: 2", b"Content-Length: 3", body=b"{}}"), 400),
        ("8 two equal CL", head(LINE, HOST, TYPE, b"Content-Length: 2", b"Content-Length: 2", body=b"{}"), 400),
        ("8 list CL", head(LINE, HOST, TYPE, b"Content-Length: 2, 2", body=b"{}"), 400),
        ("8 two TE", head(LINE, HOST, TYPE, CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400),
        ("9 two Host", head(b"GET /v1/models HTTP/1.1", HOST, b"Host: other"), 400),
        ("9 two equal Host", head(b"GET /v1/models HTTP/1.1", HOST, HOST), 400),
        ("10 bare LF", head(b"GET /v1/models HTTP/1.1", HOST).replace(b"\r\n", b"\n"), 400),
        ("10 bare LF in a head", head(b"GET /v1/models HTTP/1.1", HOST + b"\nX: y"), 400),
        ("10 bare CR in a head", head(b"GET /v1/models HTTP/1.1", HOST + b"\rX: y"), 400),
        ("11 obs-fold", head(b"GET /v1/models HTTP/1.1", HOST, b"X: a", b" b"), 400),
        ("11 fold of the first", head(b"GET /v1/models HTTP/1.1", b" X: a", HOST), 400),
        ("12 `Host :`", head(b"GET /v1/models HTTP/1.1", b"Host : weir"), 400),
        ("12 no colon", head(b"GET /v1/models HTTP/1.1", HOST, b"nothing"), 400),
        ("12 empty name", head(b"GET /v1/models HTTP/1.1", HOST, b": x"), 400),
        ("13 xchunked", head(LINE, HOST, TYPE, b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400),
        ("13 gzip, chunked", head(LINE, HOST, TYPE, b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
        ("13 chunked, identity", head(LINE, HOST, TYPE, b"Transfer-Encoding: chunked, identity"), 400),
        ("13 , chunked", head(LINE, HOST, TYPE, b"Transfer-Encoding: , chunked", body=b"0\r\n\r\n"), 400),
        ("13 TE in 1.0", head(LINE.replace(b"1.1", b"1.0"), HOST, TYPE, CHUNKED, body=b"0\r\n\r\n"), 400),
        ("14 chunk size 0x3", head(LINE, HOST, TYPE, CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n"), 400),
        ("14 chunk size -1", head(LINE, HOST, TYPE, CHUNKED, body=b"-1\r\nabc\r\n0\r\n\r\n"), 400),
        ("14 chunk size with space", head(LINE, HOST, TYPE, CHUNKED, body=b"3 \r\nabc\r\n0\r\n\r\n"), 400),
        ("14 chunk size overflow", head(LINE, HOST, TYPE, CHUNKED, body=b"FFFFFFFFFFFFFFFFF\r\nabc\r\n"), 400),
        ("14 chunk longer than told", head(LINE, HOST, TYPE, CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n"), 400),
        ("14 chunk with bare LF", head(LINE, HOST, TYPE, CHUNKED, body=b"3\nabc\n0\n\n"), 400),
        ("15 CL +5", head(LINE, HOST, TYPE, b"Content-Length: +5", body=b"12345"), 400),
        ("15 CL -5", head(LINE, HOST, TYPE, b"Content-Length: -5", body=b"12345"), 400),
        ("15 CL 0x5", head(LINE, HOST, TYPE, b"Content-Length: 0x5", body=b"12345"), 400),
        ("15 CL 5_0", head(LINE, HOST, TYPE, b"Content-Length: 5_0", body=b"12345"), 400),
        ("15 CL empty", head(LINE, HOST, TYPE, b"Content-Length:", body=b"12345"), 400),
        ("15 CL 2^64", head(LINE, HOST, TYPE, b"Content-Length: 18446744073709551616"), 400),
        ("16 9 KB header line", head(b"GET /v1/models HTTP/1.1", HOST, b"X: " + b"y" * 9000), 431),
        ("16 9 KB header name", head(b"GET /v1/models HTTP/1.1", HOST, b"x" * 9000 + b": y"), 431),
        ("16 9 KB target", head(b"GET /v1/" + b"x" * 9000 + b" HTTP/1.1", HOST), 414),
        ("16 200 headers", head(b"GET /v1/models HTTP/1.1", HOST, *(b"x-%d: y" % n for n in range(200))), 431),
        ("38 h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("38 TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
        ("38 CONNECT", b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n", 405),
        ("38 CONNECT with path", head(b"CONNECT /v1/models HTTP/1.1", HOST), 405),
        ("38 SOCKS", b"\x05\x01\x00", 400),
        ("38 SSH", b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    ],
)
async def test_rows_4_to_16_and_38_bad_requests(
    plane: Plane, simulator: Simulator, row: str, sent: bytes, status: int
) -> None:
    """Refused and closed, so that nothing behind it can pass for another request; the upstream sees nothing."""
    await refused(plane, sent, status, closed=True)
    assert simulator.state.requests == 0
    smuggled = sent + get("/v1/models", KEY)
    await refused(plane, smuggled, status, closed=True)
    assert simulator.state.requests == 0


# --- 17 to 19: time


async def test_row_17_dripped_headers(serve: Serve) -> None:
    """Closed at the limit for heads, without an answer."""
    async with hasty(serve, "header_s") as plane, await plane.connect() as client:
        await client.send(b"GET /v1/models HTTP/1.1\r\nHost: we")
        assert await client.rest() == b""


@pytest.mark.parametrize("path", [PATH, "/v1/audio/transcriptions"])
async def test_row_18_stalled_body(serve: Serve, simulator: Simulator, path: str) -> None:
    """408 that the SDK must not retry; then closed."""
    async with hasty(serve, "body_idle_s") as plane:
        answer = await refused(plane, post(path, chat(), KEY)[:-5], 408, closed=True)
    assert answer.header(b"x-should-retry") == b"false"
    assert simulator.state.completed == 0


async def test_row_19_slow_reader(simulator: Simulator, serve: Serve) -> None:
    """Dropped after the time without progress, and the upstream is cancelled."""
    async with hasty(serve, "slow_reader_s") as plane, await plane.connect(receive_buffer=4096) as client:
        await client.send(ask(chat(True), "x-sim-fault: huge-event:12:1"))
        await simulator.until(lambda state: state.departures)
        assert not plane.connections


# --- 20 to 29: the body


def deep(levels: int) -> bytes:
    """A chat request whose metadata is `levels` deep in all."""
    return chat()[:-1] + b',"metadata":' + b'{"a":' * (levels - 1) + b"1" + b"}" * (levels - 1) + b"}"


def with_field(text: str) -> bytes:
    return chat()[:-1] + b"," + text.encode("utf-8", "surrogatepass") + b"}"


BOMB = gzip.compress(b'{"model":"' + b" " * 10_000_000 + b'"}')
GZIP = "Content-Encoding: gzip"


@pytest.mark.parametrize(
    ("row", "sent", "status", "code"),
    [
        ("20 too large", ask(chat(pad="x" * 300_000)), 413, "request_too_large"),
        ("20 upload too large", post(SPOKEN, b"x" * 500_000, KEY, FORM), 413, None),
        ("20 gzip bomb", ask(BOMB, GZIP), 413, "request_too_large"),
        ("21 truncated gzip", ask(gzip.compress(chat())[:-9], GZIP), 400, "invalid_encoding"),
        ("22 bad gzip", ask(b"\x1f\x8bnothing", GZIP), 400, "invalid_encoding"),
        ("22 not gzip", ask(chat(), GZIP), 400, "invalid_encoding"),
        ("22 bad checksum", ask(gzip.compress(chat())[:-8] + bytes(8), GZIP), 400, "invalid_encoding"),
        ("22 bytes after gzip", ask(gzip.compress(chat()) + b"more", GZIP), 400, "invalid_encoding"),
        ("23 br", ask(b"x", "Content-Encoding: br"), 415, "unsupported_encoding"),
        ("23 gzip, gzip", ask(b"x", "Content-Encoding: gzip, gzip"), 415, "unsupported_encoding"),
        ("24 text", post(PATH, chat(), KEY, "Content-Type: text/plain"), 415, "unsupported_media_type"),
        ("24 form", post(PATH, b"a=b", KEY, "Content-Type: application/x-www-form-urlencoded"), 415, None),
        ("24 BOM", ask(b"\xef\xbb\xbf" + chat()), 400, "invalid_json"),
        ("24 UTF-16", ask(chat().decode().encode("utf-16")), 400, "invalid_json"),
        ("24 bytes after", ask(chat() + b"x"), 400, "invalid_json"),
        ("24 two objects", ask(chat() + chat()), 400, "invalid_json"),
        ("24 no body", post(PATH, b"", KEY), 400, "invalid_json"),
        ("24 no object", ask(b"[]"), 400, "invalid_json"),
        ("24 null", ask(b"null"), 400, "invalid_json"),
        ("24 cut", ask(chat()[:-1]), 400, "invalid_json"),
        ("25 model twice", ask(with_field('"model":"other"')), 400, "duplicate_field"),
        ("25 model twice, escaped", ask(with_field('"\\u006dodel":"other"')), 400, "duplicate_field"),
        ("25 stream twice", ask(with_field('"stream" : true')), 400, "duplicate_field"),
        ("25 messages twice", ask(with_field('"messages":[]')), 400, "duplicate_field"),
        ("25 max_tokens twice", ask(with_field('"max_tokens":1,"max_tokens":9')), 400, "duplicate_field"),
        ("26 deep", ask(deep(65)), 400, "invalid_json"),
        ("26 very deep", ask(b"[" * 100_000), 400, "invalid_json"),
        ("27 NaN", ask(with_field('"temperature":NaN')), 400, "invalid_json"),
        ("27 -Infinity", ask(with_field('"temperature":-Infinity')), 400, "invalid_json"),
        ("27 1e999", ask(with_field('"temperature":1e999')), 400, "invalid_json"),
        ("27 5000 digits", ask(with_field('"seed":' + "9" * 5000)), 400, "invalid_json"),
        ("28 lone surrogate", ask(with_field('"user":"\\ud800"')), 400, "invalid_json"),
        ("28 surrogate bytes", ask(with_field('"user":"\ud800"')), 400, "invalid_json"),
        ("28 bad UTF-8", ask(chat()[:-2] + b'\xff"}'), 400, "invalid_json"),
        ("29 n 1000", ask(with_field('"n":1000')), 400, "invalid_value"),
        ("29 n 0", ask(with_field('"n":0')), 400, "invalid_value"),
        ("29 n true", ask(with_field('"n":true')), 400, "invalid_value"),
        ("29 max_tokens -1", ask(with_field('"max_tokens":-1')), 400, "invalid_value"),
        ("29 max_tokens 2^63", ask(with_field('"max_tokens":9223372036854775808')), 400, "invalid_value"),
        ("29 max_tokens 1.5", ask(with_field('"max_tokens":1.5')), 400, "invalid_value"),
        ("29 max_completion_tokens text", ask(with_field('"max_completion_tokens":"9"')), 400, "invalid_value"),
        ("29 stream text", ask(chat().replace(b'"stream":false', b'"stream":"yes"')), 400, "invalid_value"),
        ("29 model number", ask(chat().replace(b'"gpt-4o-mini"', b"5")), 400, "invalid_type"),
    ],
)
async def test_rows_20_to_29_bad_bodies(
    plane: Plane, simulator: Simulator, row: str, sent: bytes, status: int, code: str | None
) -> None:
    """Refused by us, before anything is spent, with a code that says why."""
    answer = await refused(plane, sent, status)
    assert code is None or answer.error["code"] == code
    if row.startswith(("25", "29")):
        assert answer.error["param"] in row or (answer.error["param"] == "stream" and "stream" in row)
    assert simulator.state.requests == 0
    assert plane.plane.in_flight.held == 0


@pytest.mark.parametrize(
    "body",
    [
        deep(64),
        with_field('"metadata":{"model":"other","messages":1,"n":-1}'),
        with_field('"user":"\\"model\\":\\"other\\""'),
        with_field('"unknown":1,"unknown":2'),
        with_field('"max_tokens":2147483647'),
        b" \r\n\t" + chat() + b"\n",
        gzip.compress(chat()),
        zlib.compress(chat()),
    ],
)
async def test_rows_20_to_29_what_only_looks_bad(plane: Plane, body: bytes) -> None:
    """The neighbours of what is refused are answered."""
    lines = [GZIP] if body[:2] == b"\x1f\x8b" else ["Content-Encoding: deflate"] if body[:1] == b"x" else []
    async with await plane.connect() as client:
        answer = await client.ask(ask(body, *lines))
        assert answer.status == 200, answer.body


async def test_row_24_json_by_another_name_passes(plane: Plane) -> None:
    """A charset, capitals and +json are JSON; no Content-Type at all is taken for it."""
    async with await plane.connect() as client:
        for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
            assert (await client.ask(post(PATH, chat(), KEY, f"Content-Type: {kind}"))).status == 200
        sent = ask().replace(b"Content-Type: application/json\r\n", b"")
        assert (await client.ask(sent)).status == 200


# --- 30 to 36: what a request may ask for


async def test_row_30_a_model_that_the_key_may_not_use(serve: Serve, simulator: Simulator) -> None:
    """403, also for names that only look like an allowed one; allowed ones pass on the same connection."""
    keys = [record(models=["gpt-4o-*", "small"])]
    async with serve(keys=keys) as plane, await plane.connect() as client:
        for model in ("gpt-5", "GPT-4O-MINI", "small ", " small", "gpt-4o", "*", "small\x00", ""):
            answer = await client.ask(ask(orjson.dumps({"model": model, "messages": []})))
            assert answer.status == 403, model
            assert (answer.error["code"], answer.error["param"]) == ("model_not_allowed", "model")
        assert simulator.state.requests == 0
        assert (await client.ask(ask())).status == 200


ELSEWHERE = ("api_base", "base_url", "api_key", "custom_llm_provider", "upstream", "url", "proxy")


async def test_row_31_a_body_names_no_upstream(plane: Plane, simulator: Simulator) -> None:
    """Such fields pass on as any unknown field does; the request goes where the configuration says."""
    async with Simulator() as other:
        body = chat(**dict.fromkeys(ELSEWHERE, other.url))
        async with await plane.connect() as client:
            assert (await client.ask(ask(body))).status == 200
            target = f"/v1/chat/completions?api_base={other.url}&base_url={other.url}"
            assert (await client.ask(post(target, chat(), KEY, f"X-Base-Url: {other.url}"))).status == 200
            absolute = post(f"{other.origin}{PATH}", chat(), KEY)
            assert (await client.ask(absolute)).status == 200
            host = post(PATH, chat(), KEY).replace(b"Host: weir", f"Host: 127.0.0.1:{other.port}".encode())
            assert (await client.ask(host)).status == 200
        assert (other.state.connections_opened, simulator.state.requests) == (0, 4)
        assert dict(simulator.requests[0].headers).get(b"authorization") == f"Bearer {UPSTREAM_KEY}".encode()


async def test_row_32_an_image_url_is_never_fetched(plane: Plane, simulator: Simulator) -> None:
    """Not by us: it passes on as it is."""
    async with Simulator() as metadata:
        urls = [f"{metadata.origin}/latest/meta-data", "file:///etc/passwd", "http://169.254.169.254/"]
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": parts}]})
        async with await plane.connect() as client:
            answer = await client.ask(ask(body))
        assert answer.status in (200, 400)
        assert b"root:" not in answer.body
        assert metadata.state.connections_opened == 0


async def test_row_33_spoofed_headers_are_ignored(plane: Plane, simulator: Simulator) -> None:
    """Tenant, team and cost are what the key says; none of these headers reaches the upstream."""
    lines = (
        "X-Weir-Tenant: root",
        "X-Weir-Team: ceo",
        "X-Weir-Cost: 0",
        "X-Weir-Exchange: mine",
        "X-Weir-Policies: off",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-User: root",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
    )
    async with await plane.connect() as client:
        answer = await client.ask(ask(chat(), *lines))
        assert answer.status == 200
        assert answer.header(b"x-weir-exchange") != b"mine"
    (ended,) = [entry for entry in plane.journal() if entry["event"] == "ended"]
    assert (ended["org"], ended["team"], ended["tenant"]) == ("acme", "search", "acme/search")
    sent = {name.lower() for name, _ in simulator.requests[-1].headers}
    assert not {line.split(":")[0].lower().encode() for line in lines} & sent


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Client-Request-Id", "User-Agent"])
async def test_row_34_odd_request_ids(plane: Plane, simulator: Simulator, name: str) -> None:
    """A line end in one is a bad request; a long one is refused; ours is made by us whatever the client sends."""
    await refused(plane, ask(chat(), f"{name}: a\rb"), 400, closed=True)
    await refused(plane, ask(chat(), f"{name}: " + "x" * 10_000), 431, closed=True)
    async with await plane.connect() as client:
        answer = await client.ask(ask(chat(user="a\r\nb\x00" + "u" * 10_000), f"{name}: \x80\xff<script>"))
        assert answer.status == 200
        for _, value in answer.headers:
            assert b"<script>" not in value
            assert b"uuuu" not in value


async def test_row_34_what_a_client_names_leaves_in_headers_only_escaped(serve: Serve) -> None:
    """A model's name comes back in a header: without control bytes, however it was written."""
    async with serve(keys=[record()]) as plane, await plane.connect() as client:
        answer = await client.ask(ask(orjson.dumps({"model": "gpt-4o-mini\r\nSet-Cookie: a=b\x00é", "messages": []})))
        assert answer.header(b"set-cookie") is None
        for name, value in answer.headers:
            assert value.isascii(), name
            assert not any(byte < 32 for byte in value), name


async def test_row_35_random_models_share_a_label(serve: Serve, simulator: Simulator) -> None:
    """After the first hundred, further names are `other`: metrics don't grow with what clients invent."""
    async with serve(keys=[record()], models={"*": {"upstream": "up"}}) as plane, await plane.connect() as client:
        for number in range(150):
            await client.ask(ask(orjson.dumps({"model": f"random-{number}", "messages": []})))
        labels = {plane.metrics.model_label(f"random-{number}") for number in range(150)}
        assert len(labels) <= 102
        assert "other" in labels


async def test_row_37_fin_after_the_request(plane: Plane, simulator: Simulator) -> None:
    """Taken as gone: no answer, and the upstream is cancelled."""
    async with await plane.connect() as client:
        await client.send(ask(chat(), "x-sim-fault: no-headers"))
        await simulator.until(lambda state: state.active == 1)
        client.finish()
        await simulator.until(lambda state: state.departures)
        assert await client.rest() == b""


# --- what must hold for all of them


async def test_nothing_of_all_this_is_kept(serve: Serve) -> None:
    """After the table no body, key or counter is left behind: bytes in flight, exchanges, logs, journal, metrics."""
    sent = [ask(b"[" * 1000), ask(BOMB, GZIP), post(PATH, chat(), "Authorization: Bearer wk-canary"), ask()[:-3]]
    async with hasty(serve, "body_idle_s") as plane:
        for each in sent:
            async with await plane.connect() as client:
                await client.send(each)
                await client.answer()
        async with await plane.connect() as client:
            assert (await client.ask(ask())).status == 200
        assert plane.plane.in_flight.held == 0
        assert plane.metrics.gauges.exchanges == 0
        kept = repr(plane.logged) + repr(plane.journal()) + repr(plane.metrics.snapshot())
    for secret in (SECRET, UPSTREAM_KEY, "wk-canary", "Tell me of the river"):
        assert secret not in kept


async def test_unknown_paths_are_404(plane: Plane) -> None:
    """As JSON, with the way to the API in the message."""
    for path in ("/", "/admin", "/v2/chat/completions", "/v1", "/.env", "/wp-login.php"):
        answer = await refused(plane, get(path, KEY), 404)
        assert "/v1" in answer.error["message"]


async def _chunked(client: Raw, body: bytes) -> Answer:
    line = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    return await client.ask(line + KEY.encode() + b"\r\n\r\n" + chunks(body))


async def test_a_chunked_body_meets_the_same_rules(plane: Plane) -> None:
    """Its size isn't known before it came."""
    async with await plane.connect() as client:
        assert (await _chunked(client, chat())).status == 200
        assert (await _chunked(client, b"{")).status == 400
        assert (await _chunked(client, chat(pad="x" * 300_000))).status == 413


async def test_row_36_an_idempotency_key_stands_for_one_request(serve: Serve, simulator: Simulator) -> None:
    """The same key with another body or path is 422 and costs nothing; the same request may come again."""
    keys = [record("wk-one", id="one", team="one"), record("wk-two", id="two", team="two")]
    async with serve(keys=keys) as plane, await plane.connect() as client:
        first, other = chat(user="a"), chat(user="b")

        async def send(body: bytes, key: str, path: str = PATH, who: str = "wk-one") -> int:
            answer = await client.ask(post(path, body, f"Authorization: Bearer {who}", f"Idempotency-Key: {key}"))
            if answer.status == 422:
                assert answer.error["code"] == "idempotency_key_reused"
                assert answer.error["param"] == "Idempotency-Key"
            return answer.status

        assert [await send(first, "k1"), await send(first, "k1"), await send(other, "k2")] == [200, 200, 200]
        before = simulator.state.requests
        assert [await send(other, "k1"), await send(first, "k1", "/v1/completions")] == [422, 422]
        assert simulator.state.requests == before
        assert await send(other, "k1", who="wk-two") == 200, "another tenant's keys are its own"
        assert await send(first, "k1") == 200
