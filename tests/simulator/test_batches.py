"""The simulator's Batch API: OpenAI's SDK drives it, its clock is ours."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai import AsyncOpenAI

from proxy.simulator import Simulator
from proxy.simulator.latency import Latency
from proxy.simulator.speech.batches import Terms

HOUR = 3600.0


class Wall:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def lines(count: int, model: str = "gpt-4o-mini") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    told = [{"custom_id": f"r{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count)]
    return b"\n".join(map(orjson.dumps, told))


async def made(client: AsyncOpenAI, content: bytes) -> Any:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )


async def read(client: AsyncOpenAI, id: str | None) -> list[dict[str, Any]]:
    if id is None:
        return []
    content = (await client.files.content(id)).content
    return [orjson.loads(line) for line in content.split(b"\n") if line]


@pytest.mark.parametrize(
    ("terms", "after_s", "cancel", "status", "right", "wrong"),
    [
        (Terms(Latency("constant", HOUR)), HOUR, False, "completed", 10, 0),
        (Terms(Latency("constant", HOUR), fail=1.0), HOUR, False, "completed", 0, 10),
        (Terms(Latency("constant", 48 * HOUR)), 24 * HOUR, False, "expired", 5, 5),
        (Terms(Latency("constant", HOUR), cancel_s=600), HOUR / 2, True, "cancelled", 5, 5),
    ],
    ids=["completed", "failures", "expired", "cancelled"],
)
async def test_ends(terms: Terms, after_s: float, cancel: bool, status: str, right: int, wrong: int) -> None:
    """Each way for a batch to end: how it stands, its files, and an invoice of what was answered."""
    wall = Wall()
    async with Simulator(seed=3) as simulator, AsyncOpenAI(base_url=simulator.url, api_key="sk") as client:
        simulator.batches.wall, simulator.batches.terms = wall, terms
        batch = await made(client, lines(10))
        assert (await client.batches.retrieve(batch.id)).status == "in_progress"
        wall.now += after_s
        if cancel:
            assert (await client.batches.cancel(batch.id)).status == "cancelling"
            wall.now += 600
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == status
        assert batch.metadata == {"a": "b"}
        good, bad = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
        assert (len(good), len(bad)) == (right, wrong)
        assert {line["custom_id"] for line in good + bad} == {f"r{n}" for n in range(10)}
        assert all(line["response"]["body"]["usage"]["total_tokens"] for line in good)
        assert [(row.tier, row.requests) for row in simulator.invoice().rows] == ([("batch", right)] if right else [])
        assert [one.id async for one in await client.batches.list()] == [batch.id]


async def test_a_bad_file_fails_the_batch() -> None:
    """Two models in one file, or a line that is none: nothing runs."""
    async with Simulator(seed=3) as simulator, AsyncOpenAI(base_url=simulator.url, api_key="sk") as client:
        for content in (b"nonsense", lines(1) + b"\n" + lines(1), lines(1) + b"\n" + lines(2, "gpt-4o")[-200:]):
            batch = await client.batches.retrieve((await made(client, content)).id)
            assert batch.status == "failed"
            assert batch.errors is not None
        assert simulator.invoice().rows == []
