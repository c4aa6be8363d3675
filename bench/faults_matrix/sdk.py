"""What the OpenAI SDK makes of every fault: what it raises or returns, and how often it asks.

Once for each fault and kind that the SDK can ask: not Anthropic's, and not speech in events, which it takes for bytes.
It has its own defaults: two further attempts, its own waits, which are real.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from random import Random
from typing import Any

import openai
from openai import AsyncOpenAI

from bench.faults_matrix.expected import CASES, Case, Expect, expected
from bench.faults_matrix.kinds import KINDS, TENANTS, Kind
from bench.faults_matrix.planes import CASE, World, secret_of

AT_ONCE = 64
RETRIES = 2
_REFUSED = ("passed", "unbilled", "maybe")


class Sdk:
    """Asks one seed's cases by the SDK."""

    def __init__(self, world: World, seed: int, kinds: Iterable[Kind] = KINDS, cases: Iterable[Case] = CASES) -> None:
        self._world, self._seed = world, seed
        self._kinds = [kind for kind in kinds if not kind.anthropic and kind.name != "audio.speech, streamed"]
        self._cases = tuple(cases)
        self._few = asyncio.Semaphore(AT_ONCE)
        self._clients: dict[str, AsyncOpenAI] = {}
        self._due: dict[str, tuple[int, str]] = {}  # how often each case must be asked
        self.asked = 0
        self.wrong: list[str] = []

    async def run(self) -> list[str]:
        """What the SDK saw that it shouldn't have."""
        for name in ("patient", "quick"):
            url = self._world.planes[name].url
            self._clients[name] = AsyncOpenAI(api_key=secret_of(TENANTS[0]), base_url=url, max_retries=RETRIES)
        for timed in (False, True):  # what shows by a time limit mustn't wait for the rest's work
            async with asyncio.TaskGroup() as group:
                for kind in self._kinds:
                    for case in self._cases:
                        if case.timed is timed:
                            group.create_task(self._one(kind, case), name="case")
        for client in self._clients.values():
            await client.close()
        made = Counter(record["tags"].get("case") for record in self._world.records() if record["event"] == "ended")
        for id, (due, what) in self._due.items():
            if made[id] != due:
                self.wrong.append(f"{what}: {made[id]} attempts instead of {due}")
        return self.wrong

    async def _one(self, kind: Kind, case: Case) -> None:
        random = Random(f"{self._seed} {kind} {case.name}")
        fault = case.draw(random, kind)
        right = expected(fault, kind)
        if right is None:
            return
        self.asked += 1
        id = f"sdk-{self._seed}-{self.asked}"
        async with self._few:
            quick = case.timed and right.outcome != "whole"
            client = self._clients["quick" if quick else "patient"]
            headers = {CASE.decode(): id, "x-weir-tags": f"case={id}", "x-sim-fault": fault, "x-sim-tokens": "30"}
            fields = kind.make(Random(f"{self._seed} {kind}"), TENANTS[0])
            seen, error = await _seen(client, kind, fields, headers)
        wrong = [] if _torn(fault, error) else _judged(right, seen, error)
        self._due[id] = (1 + (RETRIES if right.retried else 0), f"SDK, row {case.row}, {fault} on {kind}")
        self.wrong += [f"SDK, row {case.row}, {fault} on {kind}: {each}" for each in wrong]


def _torn(fault: str, error: Exception | None) -> bool:
    """What went out of an event that is too large can't be taken back: its half is no JSON, and that is raised."""
    return fault.startswith("huge-event") and isinstance(error, json.JSONDecodeError)


def _judged(right: Expect, seen: str, error: Exception | None) -> list[str]:
    """What is wrong; `seen` is `whole`, or how far it came before the error."""
    outcome = right.outcome
    if outcome == "broken or maybe":
        outcome = "maybe" if isinstance(error, openai.APIStatusError) else "broken"
    if outcome in ("whole", "estimated"):
        return [] if error is None else [f"raised {error!r}"]
    if error is None:
        return [f"took it for whole ({seen})"]
    if outcome in _REFUSED:
        if not isinstance(error, openai.APIStatusError) or error.status_code != right.status:
            return [f"raised {error!r} instead of a status of {right.status}"]
        return []
    if isinstance(error, openai.APIStatusError) or not isinstance(error, openai.APIError):
        return [f"raised {error!r} instead of APIError in mid-stream"]
    return []


async def _seen(
    client: AsyncOpenAI, kind: Kind, fields: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[str, Exception | None]:
    told = 0
    try:
        answer = await _ask(client, kind, fields, headers)
        if kind.shape == "events":
            async for _ in answer:
                told += 1
        elif kind.shape == "blob":
            await answer.aread()
    except openai.APIError as error:
        return f"{told} events", error
    except Exception as error:  # not what an SDK may raise: judged as such
        return f"{told} events", error
    return "whole", None


def _ask(client: AsyncOpenAI, kind: Kind, fields: Mapping[str, Any], headers: Mapping[str, str]) -> Awaitable[Any]:
    """The SDK's own method for a path."""
    given: dict[str, Any] = {name: True if value == "true" else value for name, value in fields.items()}
    if kind.file is not None:
        given[kind.file[0]] = (kind.file[1], b"\0" * 2000)
    methods: dict[str, Callable[..., Awaitable[Any]]] = {
        "/v1/chat/completions": client.chat.completions.create,
        "/v1/completions": client.completions.create,
        "/v1/responses": client.responses.create,
        "/v1/responses/compact": client.responses.compact,
        "/v1/embeddings": client.embeddings.create,
        "/v1/images/generations": client.images.generate,
        "/v1/images/edits": client.images.edit,
        "/v1/images/variations": client.images.create_variation,
        "/v1/audio/speech": client.audio.speech.create,
        "/v1/audio/transcriptions": client.audio.transcriptions.create,
        "/v1/audio/translations": client.audio.translations.create,
    }
    extra = {}
    for name in ("max_output_tokens", "prompt", "quality", "stream_format"):
        if (kind.path, name) in _NOT_IN_THE_SDK and name in given:
            extra[name] = given.pop(name)
    return methods[kind.path](**given, extra_headers=headers, **({"extra_body": extra} if extra else {}))


_NOT_IN_THE_SDK = {
    ("/v1/responses/compact", "max_output_tokens"),
    ("/v1/images/variations", "prompt"),
    ("/v1/images/variations", "quality"),
}
