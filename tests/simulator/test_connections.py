"""Connections: keep-alive, pipelining, clients that leave, slow readers, TLS, and what is seen of it all."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from pathlib import Path

import orjson
import pytest

from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority

from .wire import Answer, ask, chat, read, request


async def test_keep_alive_and_pipelining_in_order(simulator: Simulator) -> None:
    """Requests sent at once on one connection are answered in their order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    count = 300
    writer.write(b"".join(request(chat(max_tokens=1 + at % 9)) for at in range(count)))
    got = b""
    while got.count(b"HTTP/1.1 200") < count or not got.endswith(b"}"):
        got += await reader.read(1 << 20)
    told = [int(part.partition(b",")[0]) for part in got.split(b'"completion_tokens":')[1:]]
    assert told == [1 + at % 9 for at in range(count)]
    assert simulator.state.connections_opened == 1
    writer.close()


async def test_connection_close_is_honoured(simulator: Simulator) -> None:
    """After `connection: close` comes FIN, and the answer says so."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(), connection="close"))
    answer = await read(reader)
    assert answer.header(b"connection") == b"close"
    assert await reader.read() == b""
    writer.close()


async def test_expect_continue(simulator: Simulator) -> None:
    """The body is asked for when the client waits with it."""
    body = chat()
    head = request(body, expect="100-continue")[: -len(body)]
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await read(reader)).status == 200
    writer.close()


async def test_chunked_requests_at_every_split(simulator: Simulator) -> None:
    """A request in chunks, arriving byte by byte, is the same request."""
    body = chat()
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    sent = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    for at in range(len(sent)):
        writer.write(sent[at : at + 1])
        await asyncio.sleep(0)
    assert (await read(reader)).status == 200
    [seen] = simulator.requests
    assert (seen.body, seen.sha256) == (body, hashlib.sha256(body).hexdigest())
    writer.close()


async def test_head_has_the_length_and_no_body(simulator: Simulator) -> None:
    """An answer to HEAD ends at its head, whatever its length says; the next one follows at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(b"", method="HEAD", path="/v1/models") + request(chat(), connection="close"))
    first, _, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    assert b"content-length: 0" not in first
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()


async def test_garbage_is_a_400(simulator: Simulator) -> None:
    """What is no HTTP is refused and the connection closed."""
    answer = await ask(simulator, b"HELLO\r\n\r\n")
    assert (answer.status, answer.header(b"connection")) == (400, b"close")


async def test_a_client_that_leaves_is_noticed_and_billed_so_far(simulator: Simulator) -> None:
    """The departure is reported with its moment, and the invoice has what had been produced."""
    before = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(stream=True), fault="stall:5", x_sim_tokens="50"))
    await reader.readuntil(b"\n\n")
    writer.close()
    state = await simulator.until(lambda state: state.cancelled == 1)
    [gone] = state.departures
    assert (gone.target, gone.frames_written, gone.output_tokens) == ("/v1/chat/completions", 6, 4)
    assert before <= gone.noticed_monotonic
    total = simulator.invoice().total
    assert (total.requests, total.partial, total.output) == (1, 1, 4)
    assert total.input > 0
    assert state.active == 0


async def test_a_client_that_leaves_before_the_answer() -> None:
    """Before the first token only the input is billed, of a unary answer too."""
    async with Simulator(ttft="1000s") as simulator:
        for stream in (True, False):
            _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
            writer.write(request(chat(stream=stream)))
            await simulator.until(lambda state: state.active == 1)
            writer.close()
            await simulator.until(lambda state: state.active == 0)
        total = simulator.invoice().total
        assert (total.requests, total.partial, total.output) == (2, 2, 0)


async def test_a_slow_reader_holds_the_stream(simulator: Simulator) -> None:
    """What the client does not read is not produced: the stream waits and then goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port, limit=1 << 12)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request(chat(stream=True), x_sim_tokens="60000", connection="close"))
    await simulator.until(lambda state: state.active == 1)
    quick = await ask(simulator, request(chat()))
    assert quick.status == 200
    assert simulator.state.active == 1
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    received = await reader.read(-1)
    assert received.count(b'"content":"') == 60_001
    assert simulator.invoice().of("gpt-4o-mini-2024-07-18").partial == 0
    writer.close()


async def test_latency_is_kept() -> None:
    """An answer is not earlier than its latencies allow."""
    async with Simulator(ttft="30ms", per_token="5ms") as simulator:
        loop = asyncio.get_running_loop()
        for stream in (True, False):
            begun = loop.time()
            await ask(simulator, request(chat(stream=stream), x_sim_tokens="5"))
            assert loop.time() - begun > 0.045
        begun = loop.time()
        await ask(simulator, request(chat(), x_sim_tokens="5", x_sim_ttft_ms="60"))
        assert loop.time() - begun > 0.075


async def test_what_arrived_can_be_asserted(simulator: Simulator) -> None:
    """Method, target, raw headers in order, and the body's hash; over HTTP without the key."""
    body = chat()
    await ask(
        simulator, request(body, path="/v1/chat/completions?a=%2F", Authorization="Bearer sk-secret-key", X_Odd="1")
    )
    [seen] = simulator.requests
    assert (seen.method, seen.target, seen.length) == ("POST", b"/v1/chat/completions?a=%2F", len(body))
    assert seen.headers[-2:] == [(b"Authorization", b"Bearer sk-secret-key"), (b"X-Odd", b"1")]
    assert seen.credential == "sk-secret-key"
    answer = await ask(simulator, request(b"", method="GET", path="/sim/requests"))
    [told] = answer.json["requests"]
    assert told["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert told["headers"][-1] == ["X-Odd", "1"]
    assert b"sk-secret-key" not in answer.raw


async def test_the_invoice_over_http(simulator: Simulator) -> None:
    """Rows by key and model under labels, until reset; looking is not counted."""
    for key in ("sk-one-key", "sk-one-key", "sk-two-key"):
        await ask(simulator, request(chat(), authorization=f"Bearer {key}"))
    invoice = (await ask(simulator, request(b"", method="GET", path="/sim/invoice"))).json
    assert sorted(row["requests"] for row in invoice["rows"]) == [1, 2]
    assert {row["model"] for row in invoice["rows"]} == {"gpt-4o-mini-2024-07-18"}
    assert all(row["key"].startswith("sk-") and "key" not in row["key"] for row in invoice["rows"])
    state = (await ask(simulator, request(b"", method="GET", path="/sim/state"))).json
    assert (state["requests"], state["active"], state["completed"]) == (3, 0, 3)
    await ask(simulator, request(b"", path="/sim/reset"))
    assert simulator.invoice().rows == []
    assert simulator.requests == []


async def test_faults_added_over_http(simulator: Simulator) -> None:
    """A rule posted while it runs holds from then on."""
    rule = orjson.dumps({"fault": "error-503", "nth": 2})
    assert (await ask(simulator, request(rule, path="/sim/faults"))).status == 200
    assert [(await ask(simulator, request(chat()))).status for _ in range(3)] == [200, 503, 200]
    assert (await ask(simulator, request(b'{"fault":"nonsense"}', path="/sim/faults"))).status == 400


async def test_the_key_is_required_where_there_is_one() -> None:
    """Bearer, x-api-key and api-key are accepted; anything else is 401."""
    async with Simulator(key="right") as simulator:

        async def status(**headers: str) -> int:
            return (await ask(simulator, request(chat(), **headers))).status

        assert await status() == 401
        assert await status(authorization="Bearer wrong") == 401
        for accepted in ({"authorization": "Bearer right"}, {"x_api_key": "right"}, {"api_key": "right"}):
            assert await status(**accepted) == 200


async def test_tls_and_its_failures(tmp_path: Path) -> None:
    """A right leaf is trusted; a wrong name, an expired one and a foreign authority are not."""
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "A stranger")
    trusting = authority.trusting()

    async def connected(context: ssl.SSLContext) -> Answer:
        async with Simulator(tls=context) as simulator:
            reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port, ssl=trusting)
            writer.write(request(chat(stream=True)))
            answer = await read(reader)
            writer.close()
            return answer

    assert (await connected(authority.serving())).events[-1] == b"[DONE]"
    for wrong in (authority.serving("other.example"), authority.serving(expired=True), stranger.serving()):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connected(wrong)
