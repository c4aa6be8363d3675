"""What a full disk and a killed process leave behind; and what OpenAI's own client makes of failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI

from proxy import journal
from proxy.simulator import Simulator
from tests.children import at_our_end
from tests.plane.conftest import Serve
from tests.plane.patterns import Budget, module
from tests.plane.running import Plane, entry
from tests.wire.raw import chat, post


async def test_full_disk_refuses_before_dispatch(serve: Serve, simulator: Simulator) -> None:
    """What can't be journalled isn't sent; guards get their money back; what runs ends; afterwards all is well."""
    budget = Budget(10**9)
    async with serve(policies=[entry("budget")], registry={"budget": module(budget)}) as plane:
        async with await plane.connect() as client:
            await client.send(post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3:0.2"))
            await client.read_until(b"data: ")
            real = plane.plane.journal._fd
            plane.plane.journal._fd = os.open("/dev/full", os.O_WRONLY)
            for stream in (False, True):
                refused = await plane.chat(stream=stream)
                assert (refused.status, refused.error["code"]) == (503, "journal_unavailable")
                assert refused.header(b"retry-after") == b"5"
            rest = await client.read_until(b"0\r\n\r\n")
            assert b"data: [DONE]" in rest
            assert plane.metrics.snapshot()["events"]["journal_write_failures"] > 0
        assert len(simulator.requests) == 1
        assert budget.reserved == 0
        os.close(plane.plane.journal._fd)
        plane.plane.journal._fd = real
        assert (await plane.chat()).status == 200
        events = [record["event"] for record in plane.journal()]
    assert events.count("reserved") == events.count("settled") == 2
    assert events.count("ended") == 4


WORKER = """
import asyncio, sys
from pathlib import Path
from proxy.simulator import Simulator
from tests.plane.running import running
from tests.wire.raw import chat, post

async def main():
    async with Simulator(seed=1) as simulator, running(simulator.url, Path(sys.argv[1])) as plane:
        await plane.chat()
        client, other = await plane.connect(), await plane.connect()
        await client.send(post("/v1/chat/completions", chat(), "x-sim-fault: no-headers"))
        await other.send(post("/v1/chat/completions", chat(True), "x-sim-fault: stall:3"))
        await other.read_until(b"data: ")
        await simulator.until(lambda state: state.requests == 3)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_kill_9(tmp_path: Path) -> None:
    """What a killed process had sent is in the journal as reserved, what it had settled as settled: nothing is lost."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=root,
        text=True,
        preexec_fn=at_our_end(signal.SIGKILL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    home = tmp_path / "home"
    (segment,) = journal.segments(home)
    records = list(journal.read(segment))
    assert [record["event"] for record in records] == ["reserved", "settled", "ended", "reserved", "reserved"]
    with segment.open("ab") as file:
        file.write(journal.frame(records[0])[:-3])  # and half a record more
    assert list(journal.read(segment)) == records


# --- what an SDK sees


def client(plane: Plane, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=plane.url, api_key="sk-own", max_retries=retries)


QUESTION: list[openai.types.chat.ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    "fault",
    ["mid-error", "eof-no-done", "rst", "cut-chunk", "malformed-event", "stall", "no-last-blank", "huge-event:2"],
)
async def test_sdk_sees_broken_streams(serve: Serve, fault: str) -> None:
    """A stream that broke raises in the SDK: it never looks like a short answer."""
    settings = {"timeouts": {"stream_idle_s": 0.15}, "limits": {"event_bytes": 2**20}}
    async with serve(**settings) as plane, client(plane, retries=2) as sdk:
        stream = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=QUESTION, stream=True, extra_headers={"x-sim-fault": fault}
        )
        with pytest.raises(Exception) as raised:
            async for _ in stream:
                pass
        if fault != "huge-event:2":  # of which the SDK got a part, which it can't parse
            assert isinstance(raised.value, openai.APIError)
        assert len(plane.journal("reserved")) == 1


async def test_sdk_sees_broken_responses(serve: Serve) -> None:
    """The same for the Responses API."""
    async with serve() as plane, client(plane) as sdk:
        stream = await sdk.responses.create(
            model="gpt-4o-mini", input="Hello", stream=True, extra_headers={"x-sim-fault": "eof-no-done:4"}
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


@pytest.mark.parametrize(
    ("fault", "attempts", "error"),
    [
        ("error-500", 1, openai.InternalServerError),
        ("no-headers", 1, openai.InternalServerError),
        ("truncated-json", 1, openai.InternalServerError),
        ("html-200", 1, openai.InternalServerError),
        ("unauthorized", 1, openai.InternalServerError),
        ("bad-request", 1, openai.BadRequestError),
        ("not-found", 1, openai.NotFoundError),
        ("rate-limit:3600", 1, openai.RateLimitError),
        ("rate-limit:0", 3, openai.RateLimitError),
        ("overloaded-529", 3, openai.InternalServerError),
    ],
)
async def test_sdk_replays_only_what_is_free(
    serve: Serve,
    simulator: Simulator,
    fault: str,
    attempts: int,
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An SDK that would try three times replays what nobody was billed for, and nothing else."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.002)
    monkeypatch.setattr("anyio.sleep", _no_sleep)
    async with serve(timeouts={"total_s": 0.2}) as plane, client(plane, retries=2) as sdk:
        with pytest.raises(error):
            await sdk.chat.completions.create(
                model="gpt-4o-mini", messages=QUESTION, extra_headers={"x-sim-fault": fault}
            )
    assert len(simulator.requests) == attempts


async def _no_sleep(seconds: float) -> None:
    """The wait that a server asked for is not what is tested."""
