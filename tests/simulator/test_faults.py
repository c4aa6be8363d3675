"""Every fault, as it arrives on the wire."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from typing import Any

import orjson
import pytest

from proxy.simulator import FAULTS, Simulator, fault_table
from proxy.simulator.faults import Case, Dialect, parse
from proxy.simulator.faults.spoiling import split_utf8
from proxy.simulator.ports import BlackHole, refused_url
from proxy.simulator.reply import Script

from .wire import Answer, ask, chat, read, request

BY_REQUEST = [name for name, fault in FAULTS.items() if not fault.how]


async def streamed(simulator: Simulator, fault: str = "", **headers: str) -> Answer:
    return await ask(simulator, request(chat(stream=True), fault=fault, **headers))


async def unary(simulator: Simulator, fault: str = "", **headers: str) -> Answer:
    return await ask(simulator, request(chat(), fault=fault, **headers))


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("rate-limit:2", 429, "rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("unauthorized", 401, "invalid_api_key"),
        ("forbidden", 403, "forbidden"),
        ("bad-request", 400, None),
        ("not-found", 404, "model_not_found"),
        ("unprocessable", 422, None),
        ("context-length", 400, "context_length_exceeded"),
        ("error-500", 500, None),
        ("error-502", 502, None),
        ("error-503", 503, None),
        ("overloaded-529", 529, None),
    ],
)
async def test_refusals_have_their_status_and_openais_form(
    simulator: Simulator, fault: str, status: int, code: str | None
) -> None:
    """A refusing fault answers its status with an error object, and bills nothing."""
    answer = await unary(simulator, fault)
    assert answer.status == status
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert answer.json["error"]["code"] == code
    assert simulator.invoice().rows == []


async def test_refusals_have_anthropics_form_where_asked_there() -> None:
    """On /v1/messages a refusal has Anthropic's error object."""
    async with Simulator() as simulator:
        answer = await ask(simulator, request(chat(), path="/v1/messages", fault="overloaded-529"))
        assert answer.status == 529
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(("fault", "value"), [("rate-limit:3600", b"3600"), ("rate-limit:-", None)])
async def test_rate_limits_carry_retry_after(simulator: Simulator, fault: str, value: bytes | None) -> None:
    """The argument is the Retry-After; a dash leaves it out."""
    assert (await unary(simulator, fault)).header(b"retry-after") == value


async def test_an_error_can_be_billed(simulator: Simulator) -> None:
    """`billed` charges for what was refused all the same."""
    assert (await unary(simulator, "error-500:billed")).status == 500
    assert simulator.invoice().total.requests == 1
    assert simulator.invoice().total.input > 0


async def test_an_error_can_come_before_the_body(simulator: Simulator) -> None:
    """`early` answers at the end of the head, while the body is still owed."""
    sent = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nx-sim-fault: error-503:early\r\n\r\n"
    )
    answer = await ask(simulator, sent)
    assert (answer.status, answer.end) == (503, "complete")


async def test_no_headers_says_nothing_until_the_client_leaves(simulator: Simulator) -> None:
    """`no-headers` keeps the request active and silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(), fault="no-headers"))
    await simulator.until(lambda state: state.active == 1)
    writer.close()
    state = await simulator.until(lambda state: state.cancelled == 1)
    assert state.departures[0].frames_written == 0
    assert await reader.read() == b""


async def test_no_headers_may_only_be_late(simulator: Simulator) -> None:
    """With an argument the answer comes, so many seconds late."""
    assert (await unary(simulator, "no-headers:0.01")).status == 200


@pytest.mark.parametrize(("fault", "end"), [("reset-after-request", "reset"), ("reset-after-request:close", "eof")])
async def test_reset_after_the_request(simulator: Simulator, fault: str, end: str) -> None:
    """The connection goes without a byte of an answer."""
    answer = await unary(simulator, fault)
    assert (answer.raw, answer.end) == (b"", end)


async def test_close_idle_closes_a_connection_that_it_promised_to_keep(simulator: Simulator) -> None:
    """The answer is whole and says nothing of closing; then comes FIN."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(), fault="close-idle"))
    answer = await read(reader)
    assert answer.end == "complete"
    assert answer.header(b"connection") is None
    assert await reader.read() == b""
    writer.close()


async def test_close_idle_next_closes_by_the_next_request(simulator: Simulator) -> None:
    """The connection stays until it is used again, and goes without a byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(), fault="close-idle:next"))
    assert (await read(reader)).end == "complete"
    writer.write(request(chat()))
    second = await read(reader)
    assert second.raw == b""
    assert simulator.state.requests == 1
    writer.close()


async def test_the_first_event_is_an_error(simulator: Simulator) -> None:
    """Status 200, one event with an error, a clean end, and no bill."""
    answer = await streamed(simulator, "first-event-error:rate_limit")
    assert (answer.status, answer.end, len(answer.events)) == (200, "complete", 1)
    assert orjson.loads(answer.events[0])["error"]["code"] == "rate_limit_exceeded"
    assert simulator.invoice().rows == []


async def test_an_error_in_mid_stream(simulator: Simulator) -> None:
    """N events, then an error event, and no [DONE]."""
    answer = await streamed(simulator, "mid-error:4")
    assert len(answer.events) == 5
    assert "error" in orjson.loads(answer.events[-1])
    assert simulator.invoice().total.partial == 1


@pytest.mark.parametrize(("path", "last"), [("/v1/messages", "error"), ("/v1/responses", "error")])
async def test_an_error_in_mid_stream_speaks_the_dialect(simulator: Simulator, path: str, last: str) -> None:
    """Other dialects name their error events."""
    body = orjson.dumps(
        {
            "model": "gpt-4o",
            "stream": True,
            "max_tokens": 99,
            "input": "river",
            "messages": [{"role": "user", "content": "river"}],
        }
    )
    answer = await ask(simulator, request(body, path=path, fault="mid-error"))
    assert orjson.loads(answer.events[-1])["type"] == last
    assert b"event: error\n" in answer.body


async def test_eof_without_done(simulator: Simulator) -> None:
    """The body ends cleanly, the stream does not."""
    whole, cut = await streamed(simulator), await streamed(simulator, "eof-no-done")
    assert cut.end == "complete"
    assert cut.events == [] or cut.events[-1] != b"[DONE]"
    assert cut.text == whole.text
    assert len((await streamed(simulator, "eof-no-done:2")).events) == 2


@pytest.mark.parametrize(("fault", "end"), [("cut-chunk:2", "eof"), ("rst:2", "reset")])
async def test_a_chunk_is_cut(simulator: Simulator, fault: str, end: str) -> None:
    """Two frames and a half, then FIN or RST."""
    answer = await streamed(simulator, fault)
    assert answer.end == end
    assert answer.raw.count(b"data: {") == 3
    assert b"[DONE]" not in answer.raw


@pytest.mark.parametrize(("fault", "end"), [("cut-chunk", "eof"), ("rst", "reset")])
async def test_a_unary_answer_is_cut_in_half(simulator: Simulator, fault: str, end: str) -> None:
    """Of a unary answer, half arrives."""
    answer = await unary(simulator, fault)
    assert answer.status == 200
    assert answer.end == end


@pytest.mark.parametrize("fault", ["stall:3", "half-open:3"])
async def test_a_stream_falls_silent(simulator: Simulator, fault: str) -> None:
    """After N events nothing comes, and the connection stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(request(chat(stream=True), fault=fault))
    got = await reader.readuntil(b"\n\n\r\n")
    while got.count(b"data: {") < 3:
        got += await reader.readuntil(b"\n\n\r\n")
    assert simulator.state.active == 1
    assert got.count(b"data: {") == 3
    writer.close()


async def test_a_stall_can_end(simulator: Simulator) -> None:
    """With seconds, the stream goes on."""
    assert (await streamed(simulator, "stall:3:0.01")).events[-1] == b"[DONE]"


async def test_half_open_does_not_notice_that_the_client_left(simulator: Simulator) -> None:
    """Where `stall` sees FIN at once, `half-open` sees nothing."""
    for fault in ("half-open", "stall:1"):
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(request(chat(stream=True), fault=fault))
        await reader.readuntil(b"\n\n")
        writer.close()
    state = await simulator.until(lambda state: state.cancelled == 1)
    assert (state.active, state.cancelled) == (1, 1)


async def test_heartbeats_come_before_the_first_token(simulator: Simulator) -> None:
    """Comments first, then the usual stream."""
    answer = await streamed(simulator, "heartbeat:4:0.001")
    assert answer.body.startswith(b": processing\n\n" * 4 + b"data: ")
    assert answer.events[-1] == b"[DONE]"


async def test_drip_writes_byte_by_byte(simulator: Simulator) -> None:
    """One byte at a time brings the same answer."""
    slow = await streamed(simulator, "drip:0", x_sim_tokens="2")
    assert slow.events[-1] == b"[DONE]"


async def test_malformed_event(simulator: Simulator) -> None:
    """One event is no JSON; the stream goes on as if nothing was."""
    answer = await streamed(simulator, "malformed-event:2")
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answer.events[2])
    assert answer.events[-1] == b"[DONE]"


async def test_huge_event(simulator: Simulator) -> None:
    """One event of N MiB, which is JSON."""
    answer = await streamed(simulator, "huge-event:17")
    assert max(map(len, answer.events)) > 17 << 20
    assert [orjson.loads(event) for event in answer.events[:-1]]


@pytest.mark.parametrize(
    ("fault", "ending"), [("crlf", b"\r\n\r\n"), ("cr", b"\r\r"), ("split-every:1", b"\n\n"), ("split-utf8", b"\n\n")]
)
async def test_the_same_events_however_they_are_written(simulator: Simulator, fault: str, ending: bytes) -> None:
    """Line ends and write boundaries change no event."""
    plain, changed = await streamed(simulator, x_sim_tokens="40"), await streamed(simulator, fault, x_sim_tokens="40")
    assert changed.text == plain.text
    assert changed.body.endswith(b"data: [DONE]" + ending)


@pytest.mark.parametrize("fault", ["no-space", "joined", "joined:3", "several-data-lines"])
async def test_other_ways_to_write_events(simulator: Simulator, fault: str) -> None:
    """The joined data lines of each event are the usual ones."""
    plain, changed = await streamed(simulator), await streamed(simulator, fault)
    joined = changed.body.replace(b"\ndata: ", b"\n").replace(b"data:{", b"data: {")
    assert plain.body.count(b"\n\n") == changed.body.count(b"\n\n")
    if fault == "several-data-lines":
        assert changed.body.count(b"data: ") > plain.body.count(b"data: ")
        assert joined.count(b",\n") > 0
    else:
        assert changed.text == plain.text


def test_split_utf8_splits_characters() -> None:
    """A frame ends within each character of several bytes, and none is lost."""
    text = "a河b é🌊".encode()
    script = Script(iter([(0.0, text, 1)]), keep=True)
    parts = [what for _, what, _ in split_utf8(script, Case((), Dialect.OPENAI, True, False)).frames]
    assert parts == [b"a\xe6", b"\xb2\xb3b \xc3", b"\xa9\xf0", b"\x9f\x8c\x8a"]


async def test_after_done(simulator: Simulator) -> None:
    """An event comes after [DONE]."""
    events = (await streamed(simulator, "after-done")).events
    assert events[-2] == b"[DONE]"
    assert b" late" in events[-1]


async def test_no_last_blank(simulator: Simulator) -> None:
    """The last line has no end."""
    answer = await streamed(simulator, "no-last-blank")
    assert answer.end == "complete"
    assert answer.body.endswith(b"\n\ndata: [DONE]")


@pytest.mark.parametrize(("fault", "kind"), [("html-200", b"text/html"), ("empty-200", b"application/json")])
async def test_success_without_an_answer(simulator: Simulator, fault: str, kind: bytes) -> None:
    """200 with a page, or with nothing."""
    answer = await unary(simulator, fault)
    assert (answer.status, answer.header(b"content-type")) == (200, kind)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answer.body)


async def test_truncated_json(simulator: Simulator) -> None:
    """Half of the JSON with the length of half."""
    answer = await unary(simulator, "truncated-json")
    assert answer.end == "complete"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(answer.body)


@pytest.mark.parametrize(("fault", "end"), [("wrong-length", "eof"), ("wrong-length:short", "complete")])
async def test_wrong_length(simulator: Simulator, fault: str, end: str) -> None:
    """Content-Length is more than comes, or less."""
    answer = await unary(simulator, fault)
    assert answer.end == end
    assert int(answer.header(b"content-length") or 0) != len(answer.raw.partition(b"\r\n\r\n")[2])


async def test_gzip(simulator: Simulator) -> None:
    """A unary answer and a stream, properly coded."""
    answer = await unary(simulator, "gzip")
    assert answer.header(b"content-encoding") == b"gzip"
    assert orjson.loads(gzip.decompress(answer.body))["object"] == "chat.completion"
    events = gzip.decompress((await streamed(simulator, "gzip")).body)
    assert events.endswith(b"data: [DONE]\n\n")


async def test_gzip_bomb(simulator: Simulator) -> None:
    """A small body that is a right answer and N MiB of white space."""
    answer = await unary(simulator, "gzip-bomb:20")
    assert len(answer.body) < 1 << 18
    plain = gzip.decompress(answer.body)
    assert len(plain) > 20 << 20
    assert orjson.loads(plain)["object"] == "chat.completion"
    assert zlib.decompressobj(31).decompress(answer.body, 100).startswith(b'{"id":"chatcmpl-')


async def test_unknown_encoding(simulator: Simulator) -> None:
    """A Content-Encoding that nobody knows."""
    assert (await unary(simulator, "unknown-encoding:zork")).header(b"content-encoding") == b"zork"


@pytest.mark.parametrize(("fault", "told"), [("no-usage", None), ("negative-usage", -8), ("huge-usage", 1 << 63)])
async def test_wrong_usage(simulator: Simulator, fault: str, told: int | None) -> None:
    """The answer tells nonsense, the invoice the truth."""
    sent = chat(messages=[{"role": "user", "content": "what is 17*23?"}])
    right = (await ask(simulator, request(sent))).json["usage"]["completion_tokens"]
    usage = (await ask(simulator, request(sent, fault=fault))).json.get("usage")
    assert (usage["completion_tokens"] if usage else None) == told
    assert simulator.invoice().total.output == 2 * right


async def usage_chunks(simulator: Simulator, fault: str) -> list[Any]:
    body = chat(stream=True, stream_options={"include_usage": True})
    answer = await ask(simulator, request(body, fault=fault))
    chunks = [orjson.loads(event) for event in answer.events[:-1]]
    return [chunk for chunk in chunks if chunk.get("usage")]


async def test_repeated_usage(simulator: Simulator) -> None:
    """The usage chunk comes twice, the invoice counts once."""
    first, second = await usage_chunks(simulator, "repeated-usage")
    assert first == second
    assert simulator.invoice().total.output == first["usage"]["completion_tokens"]


async def test_usage_beside_a_choice(simulator: Simulator) -> None:
    """Usage comes in the chunk that has the last choice."""
    [chunk] = await usage_chunks(simulator, "usage-in-last-choice-chunk")
    assert chunk["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("fault", "status"), [("redirect", 302), ("redirect:307:http://127.0.0.1:1/x", 307)])
async def test_redirect(simulator: Simulator, fault: str, status: int) -> None:
    """A redirect with a location."""
    answer = await unary(simulator, fault)
    assert answer.status == status
    assert (answer.header(b"location") or b"").startswith(b"http://127.0.0.1:")


async def test_set_cookie_and_hop_by_hop(simulator: Simulator) -> None:
    """Fields that end at this hop."""
    answer = await unary(simulator, "set-cookie")
    assert answer.header(b"set-cookie")
    assert answer.header(b"connection") == b"keep-alive, x-hop"


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("obs-fold", b"x-folded: one\r\n two\r\n"),
        ("bare-lf", b"one\nx-injected"),
        ("bare-cr", b"one\rx-injected"),
        ("bad-name", b"x bad name: "),
        ("space-colon", b"x-space : "),
        ("nul", b"a\x00b"),
        ("no-colon", b"\r\nx-no-colon\r\n"),
    ],
)
async def test_header_crlf(simulator: Simulator, argument: str, line: bytes) -> None:
    """A header line that is not allowed, as raw bytes."""
    answer = await ask(simulator, request(chat(), fault=f"header-crlf:{argument}"), enough=b"system_fingerprint")
    assert line in answer.raw


async def test_rejects_stream_options(simulator: Simulator) -> None:
    """400 for the field, an answer without it."""
    with_field = request(chat(stream=True, stream_options={"include_usage": True}), fault="rejects-stream-options")
    refused = await ask(simulator, with_field)
    assert (refused.status, refused.json["error"]["param"]) == (400, "stream_options")
    assert (await streamed(simulator, "rejects-stream-options")).status == 200


async def test_informational_and_trailers_and_chunks(simulator: Simulator) -> None:
    """Legal but rare framings, which h11 understands."""
    answer = await unary(simulator, "informational")
    assert (answer.informational, answer.status, answer.end) == ([103], 200, "complete")
    assert (b"x-trailer", b"late") in (await streamed(simulator, "trailers")).trailers
    assert (await unary(simulator, "chunked")).json["object"] == "chat.completion"
    delimited = await streamed(simulator, "close-delimited")
    assert delimited.header(b"transfer-encoding") is None
    assert delimited.events[-1] == b"[DONE]"


async def test_faults_combine(simulator: Simulator) -> None:
    """Several faults act on one answer."""
    answer = await streamed(simulator, "crlf, after-done, split-every:50")
    assert b"\r\n\r\n" in answer.body
    assert b" late" in answer.events[-1]
    assert set(simulator.state.faults) == {"crlf", "after-done", "split-every"}


@pytest.mark.parametrize("fault", ["no-such-fault", "refuse", "huge-event:x", "header-crlf:what"])
async def test_unknown_faults_are_refused(simulator: Simulator, fault: str) -> None:
    """A name or an argument that is not right is a 400 that says so."""
    answer = await streamed(simulator, fault)
    assert (answer.status, answer.json["error"]["param"]) == (400, "x-sim-fault")


@pytest.mark.parametrize("name", BY_REQUEST)
async def test_every_fault_is_reported(simulator: Simulator, name: str) -> None:
    """The simulator counts each fault that it made, and still answers afterwards."""
    _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    argument = {"drip": ":0", "gzip-bomb": ":1", "huge-event": ":1"}.get(name, "")
    writer.write(request(chat(stream=True), fault=name + argument))
    await simulator.until(lambda state: name in state.faults)
    writer.close()
    assert (await unary(simulator)).status == 200


def test_every_row_of_the_reference_has_a_fault() -> None:
    """Rows 1 to 35 are all in the table, and the table names every fault."""
    rows: set[int] = set()
    for fault in FAULTS.values():
        first, _, last = fault.row.partition("-")
        rows |= set(range(int(first), int(last or first) + 1)) if first else set()
    assert rows == set(range(1, 36))
    assert all(f"`{name}`" in fault_table() for name in FAULTS)


def test_arguments_are_split_at_colons() -> None:
    """`NAME:ARG:ARG, NAME` are two faults."""
    parsed = parse("stall:3:0.5, gzip")
    assert [(fault.name, arguments) for fault, arguments in parsed] == [("stall", ("3", "0.5")), ("gzip", ())]


async def test_nobody_listens_or_accepts() -> None:
    """A refused port refuses; a black hole neither accepts nor refuses."""
    port = int(refused_url().rpartition(":")[2].removesuffix("/v1"))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    with BlackHole() as hole, socket.socket() as one:
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.connect(("127.0.0.1", hole.port))
