"""What an answer cost: tokens as the provider's invoice has them, prices by the cards, and how they are known."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.questions import ALL, STREAMED, WORDS, Kind, events
from tests.plane.running import Plane, key
from tests.wire.raw import Answer, chat, post

MORE = (
    Kind("completions", "/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "The river"}),
    Kind(
        "completions-stream",
        "/v1/completions",
        {"model": "gpt-3.5-turbo-instruct", "prompt": "The river", "stream": True},
        b"[DONE]",
    ),
    Kind("several-choices", "/v1/chat/completions", {"model": "gpt-4o", "messages": WORDS, "n": 3}),
    Kind("reasoning", "/v1/chat/completions", {"model": "o4-mini", "messages": WORDS}),
    Kind(
        "reasoning-stream", "/v1/chat/completions", {"model": "o4-mini", "messages": WORDS, "stream": True}, b"[DONE]"
    ),
    Kind("flex", "/v1/chat/completions", {"model": "o4-mini", "messages": WORDS, "service_tier": "flex"}),
    Kind("images", "/v1/images/generations", {"model": "gpt-image-1", "prompt": "a river"}),
    Kind(
        "image-of-a-mebibyte",
        "/v1/images/generations",
        {"model": "gpt-image-1", "prompt": "r", "quality": "high", "n": 4},
    ),
    Kind(
        "image-stream",
        "/v1/images/generations",
        {"model": "gpt-image-1", "prompt": "r", "quality": "high", "stream": True, "partial_images": 1},
        b"image_generation.completed",
    ),
    Kind("vectors-of-mebibytes", "/v1/embeddings", {"model": "text-embedding-3-large", "input": ["word"] * 60}),
)
COUNTS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_tokens": "cached",
    "cache_write_tokens": "cache_write",
    "cache_write_1h_tokens": "cache_write_1h",
    "reasoning_tokens": "reasoning",
    "input_image_tokens": "input_image",
}  # that the output of an image endpoint is an image goes without saying: its usage doesn't


def is_billed(plane: Plane, simulator: Simulator) -> None:
    """The sum of all settled tokens is what the invoice says, kind by kind."""
    total = simulator.invoice().total
    for ours, theirs in COUNTS.items():
        told = sum(record["tokens"].get(ours, 0) for record in plane.journal("settled"))
        assert told == getattr(total, theirs), ours


@pytest.mark.parametrize("fault", ["", "gzip", "chunked", "split-every:999"])
@pytest.mark.parametrize("kind", ALL + MORE, ids=str)
async def test_usage_is_the_invoice(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """Streamed or not, packed or not, held or passed through, large or small: the tokens are those that are billed."""
    async with serve() as plane:
        answer = await plane.post(kind.path, kind.fields, fault=fault)
        assert (answer.status, answer.whole) == (200, True)
        assert answer.header(b"content-encoding") is None
        settled, ended = plane.settled(), plane.ended()
        assert (settled["outcome"], settled["known"]) == ("complete", "observed")
        assert settled["usage"]
        assert settled["nanodollars"] == ended["nanodollars"] > 0
        is_billed(plane, simulator)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/images/edits"])
async def test_usage_of_forms(serve: Serve, simulator: Simulator, path: str, stream: bool) -> None:
    """A form isn't read, but its answer is, also where the form asks for a stream."""
    fields = {
        "model": "gpt-4o-transcribe" if "audio" in path else "gpt-image-1",
        "prompt": "a river",
        "quality": "high",
    }
    file = ("file", "speech.wav", b"\0" * 100_000) if "audio" in path else ("image", "image.png", b"\x89PNG" * 1000)
    body, kind = form({**fields, **({"stream": "true"} if stream else {})}, file)
    async with serve() as plane:
        answer = await plane.send(post(path, body, f"content-type: {kind}"))
        assert answer.status == 200, answer.body
        assert (b"event-stream" in (answer.header(b"content-type") or b"")) is stream
        settled = plane.settled()
        assert settled["outcome"] == "complete"
        is_billed(plane, simulator)


def form(fields: dict[str, str], file: tuple[str, str, bytes], first: str = "fields") -> tuple[bytes, str]:
    """A multipart body and its type."""
    mark = "----weir-boundary-5f1c"
    text = "".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ).encode()
    name, filename, data = file
    head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    upload = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n"
    parts = (text, upload) if first == "fields" else (upload, text)
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_cost_by_hand(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """gpt-4o-mini costs 0.15, 0.075 and 0.60 USD for a million tokens in, cached in, and out."""
    messages = [{"role": "system", "content": "word " * 3000}, *WORDS]
    async with serve() as plane:
        for _ in range(2):
            answer = await plane.chat(stream=stream, messages=messages)
        first, second = plane.journal("settled")
        assert second["tokens"]["cached_tokens"] > 1024
        for record in (first, second):
            tokens = record["tokens"]
            cached = tokens.get("cached_tokens", 0)
            cost = (tokens["input_tokens"] - cached) * 150 + cached * 75 + tokens["output_tokens"] * 600
            assert record["nanodollars"] == cost
        dollars = f"{second['nanodollars'] / 1e9:.9f}".encode()
        told = answer.body.rpartition(b"cost=")[2].split()[0] if stream else answer.header(b"x-weir-cost")
        assert told == dollars
        is_billed(plane, simulator)


async def test_priced_by_what_was_served(serve: Serve, simulator: Simulator) -> None:
    """The answer says which model and tier served it: these are priced."""
    async with serve() as plane:
        await plane.chat(model="o4-mini", service_tier="flex")
        await plane.chat(model="o4-mini")
        flex, standard = plane.journal("settled")
    assert (flex["tier"], standard["tier"]) == ("flex", "default")
    assert flex["served"].startswith("o4-mini-")
    per_token = [record["nanodollars"] / sum(record["tokens"].values()) for record in (flex, standard)]
    assert per_token[0] < per_token[1]


async def test_unknown_models_are_unpriced(serve: Serve) -> None:
    """A model without a price is unpriced, never free."""
    async with serve() as plane:
        answer = await plane.chat(model="house-model-7b")
        settled = plane.settled()
    assert (settled["nanodollars"], settled["known"]) == (None, "unpriced")
    assert answer.header(b"x-weir-cost") == b"unpriced"


# --- usage that can't be believed


@pytest.mark.parametrize("kind", ALL, ids=str)
@pytest.mark.parametrize("fault", ["no-usage", "negative-usage", "huge-usage"])
async def test_usage_that_says_nothing(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """Row 31: absent or absurd usage becomes an estimate, flagged as one, of the right size."""
    async with serve() as plane:
        answer = await plane.post(kind.path, kind.fields, fault=fault)
        assert answer.status == 200
        settled = plane.settled()
    assert (settled["outcome"], settled["known"]) == ("complete", "estimated")
    assert settled["nanodollars"] > 0
    billed = simulator.invoice().total
    assert 0 < settled["tokens"]["input_tokens"] < 10 * billed.input
    assert settled["tokens"]["output_tokens"] <= 10 * billed.output


@pytest.mark.parametrize("kind", STREAMED, ids=str)
@pytest.mark.parametrize("fault", ["repeated-usage", "usage-in-last-choice-chunk"])
async def test_usage_told_otherwise(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """Row 32: told twice it counts once, the last time; beside content it counts too."""
    async with serve() as plane:
        await plane.post(kind.path, kind.fields, fault=fault)
        assert plane.settled()["known"] == "observed"
        is_billed(plane, simulator)


@pytest.mark.parametrize("kind", STREAMED, ids=str)
async def test_broken_streams_are_estimated(serve: Serve, simulator: Simulator, kind: Kind) -> None:
    """A stream that broke is priced by what came of it, not by what its first event said."""
    async with serve() as plane:
        await plane.post(kind.path, kind.fields, "x-sim-tokens: 100", fault="eof-no-done:60")
        settled = plane.settled()
    assert (settled["outcome"], settled["known"]) == ("partial", "estimated")
    assert 40 <= settled["tokens"]["output_tokens"] <= 60
    assert abs(settled["tokens"]["output_tokens"] - simulator.invoice().total.output) <= 8


async def test_abandoned_streams_are_estimated(serve: Serve, simulator: Simulator) -> None:
    """What a client took before it left is paid for: Anthropic's first event tells the input, the events the output."""
    fields = {"model": "claude-sonnet-4-5", "max_tokens": 200, "stream": True, "messages": WORDS}
    async with serve() as plane, await plane.connect() as client:
        await client.send(post("/v1/messages", orjson.dumps(fields), "x-sim-fault: stall:40", "x-sim-tokens: 100"))
        for _ in range(38):
            await client.read_until(b"\n\n")
        client.close()
        await simulator.until(lambda state: state.cancelled)
        await plane.quiet()
        settled = plane.settled()
    assert (settled["outcome"], settled["known"]) == ("aborted", "estimated")
    assert 30 <= settled["tokens"]["output_tokens"] <= 40
    assert settled["tokens"]["input_tokens"] == simulator.invoice().total.input


# --- stream_options


def _chunks(answer: Answer) -> list[dict[str, Any]]:
    return [orjson.loads(payload) for payload in events(answer) if payload != b"[DONE]"]


async def test_usage_is_asked_for_and_taken_out(serve: Serve, simulator: Simulator) -> None:
    """A client that didn't ask for usage doesn't see the chunk that the accounting needs."""
    async with serve() as plane:
        plain = await plane.chat(stream=True)
        asked = await plane.chat(stream=True, stream_options={"include_usage": True})
        first, second = (orjson.loads(request.body) for request in simulator.requests)
        assert first["stream_options"] == {"include_usage": True}
        assert second["stream_options"] == {"include_usage": True}
        is_billed(plane, simulator)
    assert all(chunk["choices"] for chunk in _chunks(plain))
    assert _chunks(asked)[-1]["choices"] == []
    assert _chunks(asked)[-1]["usage"]["total_tokens"] > 0


async def test_other_stream_options_stay(serve: Serve, simulator: Simulator) -> None:
    """What the client says in `stream_options` stays, also that it wants no usage."""
    async with serve() as plane:
        await plane.chat(stream=True, stream_options={"include_obfuscation": False})
        await plane.chat(stream=True, stream_options={"include_usage": False})
        first, second = (orjson.loads(request.body)["stream_options"] for request in simulator.requests)
    assert first == {"include_obfuscation": False, "include_usage": True}
    assert second == {"include_usage": False}


async def test_rejected_stream_options(serve: Serve, simulator: Simulator) -> None:
    """An upstream that doesn't know the field is asked again without it, once; afterwards it is left out."""
    simulator.fault("rejects-stream-options")
    async with serve() as plane:
        first = await plane.chat(stream=True)
        second = await plane.chat(stream=True)
        assert (first.status, second.status) == (200, 200)
        assert [b"stream_options" in request.body for request in simulator.requests] == [True, False, False]
        assert [record["status"] for record in plane.journal("settled")] == [400, 200, 200]
        assert plane.journal("settled")[0]["nanodollars"] == 0
        assert plane.metrics.snapshot()["events"]["include_usage_rejected"] == 1


async def test_a_client_cannot_switch_metering_off(serve: Serve, simulator: Simulator) -> None:
    """A 400 that names the field because the client's own request does is no reason to stop asking for usage."""
    async with serve() as plane:
        answer = await plane.chat(stream=True, messages=[{"role": "stream_options", "content": "x"}])
        assert answer.status == 400
        await plane.chat(stream=True)
        assert b"include_usage" in simulator.requests[-1].body


# --- the journal's three records


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_records(serve: Serve, kind: Kind) -> None:
    """Each attempt is reserved, then settled, then its exchange ends; all under one id, with who and what."""
    keys = [key("wk-1", "key-1", org="acme", team="search", project="index", tags={"env": "prod"})]
    async with serve(keys=keys) as plane:
        answer = await plane.post(kind.path, kind.fields, "authorization: Bearer wk-1", "x-weir-tags: run=7")
        reserved, settled, ended = plane.journal()
    assert [record["event"] for record in (reserved, settled, ended)] == ["reserved", "settled", "ended"]
    assert {record["exchange"].encode() for record in (reserved, settled, ended)} == {answer.header(b"x-weir-exchange")}
    assert reserved["at"] <= settled["at"] <= ended["at"]
    for record in (reserved, ended):
        assert (record["org"], record["team"], record["project"], record["key"]) == ("acme", "search", "index", "key-1")
        assert record["tags"] == {"env": "prod", "run": "7"}
        assert record["tenant"] == "acme/search/index"
    assert reserved["estimate"]["input_tokens"] > 0
    assert reserved["estimate"]["nanodollars"] > 0
    assert settled["upstream_request_id"].startswith("req_")
    assert 0 < settled["ttft_ns"] <= settled["total_ns"] <= ended["total_ns"]
    assert ended["attempts"] == 1


async def test_reserved_is_on_disk_before_dispatch(serve: Serve, simulator: Simulator) -> None:
    """I1: when the upstream has the request, the journal has the reservation."""
    async with serve() as plane, await plane.connect() as client:
        await client.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers"))
        await simulator.until(lambda state: state.active == 1)
        assert [record["event"] for record in plane.journal()] == ["reserved"]


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_settled_is_on_disk_before_the_answer_ends(serve: Serve, kind: Kind) -> None:
    """Whoever has the whole answer finds it in the journal."""
    async with serve() as plane:
        for _ in range(5):
            await plane.post(kind.path, kind.fields)
            assert len(plane.journal("reserved")) == len(plane.journal("settled")) == len(plane.journal("ended"))


async def test_many_at_once(serve: Serve, simulator: Simulator) -> None:
    """A hundred exchanges at once, streamed and not, of which some fail: all accounted for, to the token."""
    kinds = [kind for kind in ALL for _ in range(15)]
    async with serve() as plane:
        faults = ["", "", "", "error-503", "rate-limit:1"]
        asked = [plane.post(kind.path, kind.fields, fault=faults[at % 5]) for at, kind in enumerate(kinds)]
        await asyncio.gather(*asked)
        await plane.quiet()
        reserved, settled = plane.journal("reserved"), plane.journal("settled")
        ids = [(record["exchange"], record["attempt"]) for record in settled]
        assert len(set(ids)) == len(ids) == len(reserved) == len(kinds)
        paid = [record for record in settled if record["nanodollars"]]
        total = simulator.invoice().total
        assert sum(record["tokens"]["input_tokens"] for record in paid) == total.input
        assert sum(record["tokens"]["output_tokens"] for record in paid) == total.output
        assert sum(record["nanodollars"] for record in plane.journal("ended")) == sum(
            record["nanodollars"] for record in settled
        )
