"""A week of mixed use: each day is a run of its own, with the clock of all of Weir's processes set to that day's noon.

Three projects of the provider, each behind a key of its own; so the invoice can be read by day and project. Everything
is used whose usage the provider tells: caps and none, streams, reasoning, cached prompts, embeddings, refusals that are
tried again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.money import prices
from bench.money.clients import Client, lanes
from bench.money.kinds import LARGE, OPEN, SMALL, STREAM, THINKS, Kind
from bench.money.world import Provider, Setup, Weir, key_of

DAYS: Final = 7
CLIENTS: Final = 24
PROJECTS: Final = ("proj_search", "proj_support", "proj_lab")
LEFT_OUT: Final = (3, "proj_lab", "o4-mini")  # a day on which a project doesn't use one of its models
_PACE: Final = ("--unary", "lognormal(20ms, 0.5)", "--ttft", "10ms", "--per-token", "0.1ms")
_SCENARIO: Final = (
    "version: 1\nfaults:\n  - {fault: error-503, probability: 3%}\n  - {fault: 'rate-limit:0', every: 40}\n"
)
_POLICIES: Final = "[{use: budget, name: all, limit: 1000 USD/month}, {use: retry, attempts: 4, backoff: 20ms}]"
_LONG: Final = "The reader of this text knows the river well. " * 220
_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "o4-mini", "text-embedding-3-small")


@dataclass(slots=True)
class Week:
    """What was billed: the invoice's rows by day and project."""

    home: Path
    config: Path
    rows: dict[tuple[date, str], list[dict[str, Any]]] = field(default_factory=dict)
    requests: int = 0
    failed: int = 0

    @property
    def days(self) -> list[date]:
        return sorted({day for day, _ in self.rows})

    def cost(self, day: date, project: str) -> int:
        """Nano-dollars."""
        return sum(prices.cost(row) for row in self.rows[day, project])


def run(directory: Path, seconds: float) -> Week:
    """All days, each so long."""
    home = directory / "home"
    week = Week(home, home / "weir.yaml")
    first = datetime.now(UTC).date() - timedelta(days=DAYS)
    for number in range(DAYS):
        _day(week, directory / f"provider-{number}", first + timedelta(days=number), number, seconds)
    return week


def _day(week: Week, directory: Path, day: date, number: int, seconds: float) -> None:
    provider = Provider(directory, *_PACE, scenario=_SCENARIO)
    noon_s = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    setup = Setup(
        policies=_POLICIES,
        workers=2,
        models=_models(),
        upstreams=_upstreams(week.home, provider.port),
        shift_s=noon_s - time.time(),
    )
    weir = Weir(week.home, provider, setup)
    try:
        weir.start()
        uvloop.run(_use(week, weir, number, seconds))
        provider.quiet()
        for row in provider.rows():
            project = PROJECTS[int(row["key"][:6])]
            week.rows.setdefault((day, project), []).append(row)
    finally:
        weir.stop()
        provider.process.stop()


def _models() -> str:
    named = (
        f'"{project}.{model}": {{upstream: {project}, model: {model}}}' for project in PROJECTS for model in _MODELS
    )
    return f"{{{', '.join(named)}}}"


def _upstreams(home: Path, port: int) -> str:
    home.mkdir(parents=True, exist_ok=True)
    made = []
    for number, project in enumerate(PROJECTS):
        (home / f"{project}.key").write_text(f"{number:06d}-bench-0123456789abcdef")
        where = f'url: "http://127.0.0.1:{port}/v1", provider: openai, account: org_bench, project: {project}'
        made.append(f"{project}: {{{where}, key: {{file: {home / project}.key}}}}")
    return ", ".join(made)


async def _use(week: Week, weir: Weir, day: int, seconds: float) -> None:
    chance, ends_s = random.Random(day), time.monotonic() + seconds

    async def lane(client: Client, _: int) -> None:
        while time.monotonic() < ends_s:
            week.requests += 1
            path, body, headers = _request(week.requests, day, chance)
            answer = await client.ask(body, key_of(week.requests), path, **headers)
            week.failed += answer.status != 200
            if answer.status != 200:
                await asyncio.sleep(0.05)

    await lanes(CLIENTS, weir.url, lane)


def _request(number: int, day: int, chance: random.Random) -> tuple[str, dict[str, Any], dict[str, object]]:
    project = chance.choice(PROJECTS)
    kind: Kind = chance.choice((SMALL, OPEN, LARGE, STREAM, THINKS))
    if (day, project, kind.model) == LEFT_OUT:
        kind = SMALL
    if chance.random() < 0.1:
        body: dict[str, Any] = {"model": f"{project}.text-embedding-3-small", "input": f"{number} {_LONG[:900]}"}
        return "/v1/embeddings", body, {}
    body, tokens = kind.request(number, chance)
    body["model"] = f"{project}.{kind.model}"
    if chance.random() < 0.3:
        body["messages"].insert(0, {"role": "system", "content": _LONG})  # the provider caches it
    return "/v1/chat/completions", body, {"x-sim-tokens": min(tokens, 200)}


def pages(week: Week) -> Iterator[dict[str, Any]]:
    """The buckets of the costs API, as they follow from the invoice."""
    for day in week.days:
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
        lines: dict[tuple[str, str], int] = {}
        for project in PROJECTS:
            for row in week.rows.get((day, project), []):
                for meter, amount in prices.meters(row).items():
                    name = (project, f"{row['model']}, {meter}")
                    lines[name] = lines.get(name, 0) + amount
        results = [result(project, text, amount) for (project, text), amount in sorted(lines.items())]
        yield {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}


def result(project: str, text: str, nanodollars: float) -> dict[str, Any]:
    """One line of a bucket."""
    amount = {"value": nanodollars / 1e9, "currency": "usd"}
    return {"object": "organization.costs.result", "amount": amount, "line_item": text, "project_id": project}
