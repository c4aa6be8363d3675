"""Upstreams that repeat what they were sent: their words reach clients, our keys don't."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable

import pytest

from tests.plane.conftest import Serve
from tests.plane.running import UPSTREAM_KEY

FIELD = "org-secret-canary-77aa"
Made = Callable[[bytes], bytes]


def _answer(status: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def _error(status: bytes) -> Made:
    return lambda head: _answer(status, b'{"error":{"message":"I got %b","type":"t","code":null}}' % head)


def _event(before: bytes) -> Made:
    told = b'data: {"error":{"message":"I got %b","type":"t","code":null}}\n\n'
    return lambda head: _answer(b"200 OK", before + told % head, b"text/event-stream")


FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ANSWERS: dict[str, Made] = {
    "400": _error(b"400 Bad Request"),
    "401": _error(b"401 Unauthorized"),
    "404": _error(b"404 Not Found"),
    "429": _error(b"429 Too Many Requests"),
    "500": _error(b"500 Internal Server Error"),
    "503": _error(b"503 Service Unavailable"),
    "text": lambda head: _answer(b"400 Bad Request", b"I got " + head, b"text/plain"),
    "large": lambda head: _answer(b"400 Bad Request", b'{"error":{"message":"%b%b"}}' % (head, b"x" * (2 << 20))),
    "200 with an error": _error(b"200 OK"),
    "first event": _event(b""),
    "later event": _event(FIRST),
}


@pytest.fixture
async def echo(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server that says which credentials it got."""
    made = ANSWERS[request.param]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(found[1]) if found else 0)
        sent = b" ".join(re.findall(rb"(?:authorization|x-org): ([^\r]+)", head))
        assert UPSTREAM_KEY.encode() in sent
        assert FIELD.encode() in sent
        writer.write(made(sent))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


@pytest.mark.parametrize("echo", ANSWERS, indirect=True)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_an_upstream_that_repeats_our_key(serve: Serve, echo: str, stream: bool) -> None:
    """Whatever the failure: the client, the log and the journal see the message without the key."""
    async with serve(url=echo, upstream={"headers": {"x-org": FIELD}}) as plane:
        answer = await plane.chat(stream=stream)
        seen = (
            answer.body + repr(answer.headers).encode() + repr(plane.logged).encode() + repr(plane.journal()).encode()
        )
    assert answer.status >= 400 or b'{"error"' in answer.body
    assert UPSTREAM_KEY.encode() not in seen
    assert FIELD.encode() not in seen


@pytest.mark.parametrize("echo", ["400"], indirect=True)
async def test_its_own_words_stay(serve: Serve, echo: str) -> None:
    """Only the key is left out, and the answer is whole."""
    async with serve(url=echo, upstream={"headers": {"x-org": FIELD}}) as plane:
        answer = await plane.chat()
    assert answer.whole
    assert sorted(answer.json["error"]["message"].split()) == ["Bearer", "I", "[key]", "[key]", "got"]
