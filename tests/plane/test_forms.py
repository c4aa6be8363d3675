"""Forms stream through unread, but for their `model`: it routes, prices and is allowed or not, like any other."""

from __future__ import annotations

import asyncio

import pytest

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import key
from tests.plane.test_metering import form
from tests.wire.raw import post

SMALL, LARGE = b"\0" * 5_000, b"\0" * 900_000
PATH = "/v1/audio/transcriptions"


@pytest.mark.parametrize("first", ["fields", "file"])
async def test_model_is_known(serve: Serve, simulator: Simulator, first: str) -> None:
    """Before or behind a small file, the model is journalled and priced; the bytes are the client's."""
    body, kind = form({"model": "gpt-4o-mini-transcribe", "language": "en"}, ("file", "a.wav", SMALL), first)
    async with serve() as plane:
        answer = await plane.send(post(PATH, body, f"content-type: {kind}"))
        assert answer.status == 200
        assert plane.journal("reserved")[0]["model"] == "gpt-4o-mini-transcribe"
        assert plane.ended()["asked"] == "gpt-4o-mini-transcribe"
        assert plane.settled()["nanodollars"] > 0
    assert simulator.requests[0].length == len(body)


async def test_model_behind_a_large_file(serve: Serve, simulator: Simulator) -> None:
    """A file isn't held to find what stands behind it; the request still goes through."""
    body, kind = form({"model": "gpt-4o-transcribe"}, ("file", "a.wav", LARGE), "file")
    async with serve() as plane:
        answer = await plane.send(post(PATH, body, f"content-type: {kind}"))
        assert answer.status == 200
        assert plane.journal("reserved")[0]["asked"] is None
    assert simulator.requests[0].length == len(body)


@pytest.mark.parametrize(
    ("model", "file", "first", "status"),
    [
        ("whisper-1", SMALL, "fields", 200),
        ("gpt-4o-transcribe", SMALL, "fields", 403),
        ("gpt-4o-transcribe", SMALL, "file", 403),
        ("whisper-1", LARGE, "fields", 200),
        ("whisper-1", LARGE, "file", 403),
    ],
)
async def test_models_of_a_key(
    serve: Serve, simulator: Simulator, model: str, file: bytes, first: str, status: int
) -> None:
    """A key for certain models may use no other in a form either; where the form hides which, it is told what to do."""
    body, kind = form({"model": model}, ("file", "a.wav", file), first)
    async with serve(keys=[key("wk-1", models=["whisper-*"])]) as plane:
        answer = await plane.send(post(PATH, body, f"content-type: {kind}", "authorization: Bearer wk-1"))
        assert answer.status == status
        if status == 403:
            assert (answer.error["code"], answer.error["param"]) == ("model_not_allowed", "model")
    assert len(simulator.requests) == (status == 200)


async def test_routed_by_the_form(serve: Serve, simulator: Simulator) -> None:
    """The model's own deployment gets the form."""
    async with Simulator(seed=2) as other:
        upstreams = {"up": {"url": simulator.url}, "other": {"url": other.url}}
        models = {"whisper-1": {"upstream": "other"}, "*": {"upstream": "up"}}
        body, kind = form({"model": "whisper-1"}, ("file", "a.wav", SMALL))
        async with serve(upstreams=upstreams, models=models) as plane:
            assert (await plane.send(post(PATH, body, f"content-type: {kind}"))).status == 200
        assert (len(simulator.requests), len(other.requests)) == (0, 1)


@pytest.mark.parametrize("pieces", [1, 50])
async def test_arrives_in_pieces(serve: Serve, simulator: Simulator, pieces: int) -> None:
    """However the form comes in, the model is found and every byte goes on in order."""
    body, kind = form({"model": "whisper-1", "prompt": "x" * 3000}, ("file", "a.wav", bytes(range(256)) * 20))
    head, _, _ = post(PATH, body, f"content-type: {kind}").partition(b"\r\n\r\n")
    async with serve(limits={"stream_buffer_bytes": 2048}) as plane, await plane.connect() as client:
        await client.send(head + b"\r\n\r\n")
        size = -(-len(body) // pieces)
        for at in range(0, len(body), size):
            await client.send(body[at : at + size])
            await asyncio.sleep(0)
        assert (await client.answer()).status == 200
        assert plane.ended()["asked"] == "whisper-1"
    assert simulator.requests[0].length == len(body)


@pytest.mark.parametrize("value", ["", "x" * 2000, "a\x00b", "a\r\nb"])
async def test_models_that_are_none(serve: Serve, simulator: Simulator, value: str) -> None:
    """What can't be a model's name is refused, not guessed at."""
    body, kind = form({"model": value}, ("file", "a.wav", SMALL))
    async with serve() as plane:
        answer = await plane.send(post(PATH, body, f"content-type: {kind}"))
        assert (answer.status, answer.error["param"]) == (400, "model")
    assert simulator.requests == []
