"""`budget`: what clients, operators and webhooks are told."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from policies import budget
from policies.budget import layer
from proxy.config import ConfigurationError, load
from proxy.simulator import Simulator
from proxy.state.memory import MemoryStore
from proxy.state.protocol import StateLost
from proxy.supervisor.webhooks import post
from tests.plane.conftest import Serve
from tests.plane.running import entry, key

REGISTRY = {"budget": budget}
DEPLOYMENT = "version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n"


class Hook:
    """Something that is told."""

    def __init__(self) -> None:
        self.told: list[tuple[dict[str, Any], str, bytes]] = []
        self.answers = [204]
        self.url = ""

    async def __call__(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.told.append((orjson.loads(body), request.headers.get("x-weir-signature", ""), body))
        return web.Response(status=self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    """A server on 127.0.0.1."""
    one = Hook()
    application = web.Application()
    application.router.add_post("/hook", one)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield one
    await runner.cleanup()


async def test_a_step_is_told_once(serve: Serve, simulator: Simulator, hook: Hook) -> None:
    """Each step of the ladder goes to the webhook once, signed, and is counted."""
    options = {
        "per": "team",
        "limit": "2000 tokens/rolling 1h",
        "ladder": {"20%": "warn", "50%": "warn", "95%": "warn"},
        "webhook": {"url": hook.url, "secret": "s3cret"},
    }
    keys = [key("wk-a", "key-a", team="search")]
    async with serve(policies=[entry("budget", **options)], registry=REGISTRY, keys=keys, store=MemoryStore()) as plane:
        for _ in range(7):
            await plane.chat("authorization: Bearer wk-a", "x-sim-tokens: 180", max_tokens=200)
        await plane.quiet()
        assert plane.metrics.snapshot()["events"]["budget_thresholds"] == 2
        assert [event for _, event, _ in plane.logged if event == "budget_threshold"] == ["budget_threshold"] * 2
    assert [told["threshold_percent"] for told, _, _ in hook.told] == [20, 50]
    told, signature, body = hook.told[0]
    assert (told["event"], told["subject"], told["limit"]) == (
        "budget.threshold",
        "team search",
        "2000 tokens/rolling 1h",
    )
    assert signature == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()


class Elsewhere(MemoryStore):
    """Another worker is quicker to say that it tells of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.claims: list[tuple[str, float, bool]] = []

    async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
        if duty.startswith("threshold:") and not self.claims:
            assert await super().claim(duty, "another", ttl_s)
        done = await super().claim(duty, owner, ttl_s)
        self.claims.append((owner, ttl_s, done))
        return done


@pytest.mark.parametrize("dies", [True, False])
async def test_another_takes_over(
    serve: Serve, simulator: Simulator, hook: Hook, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    """Whoever was to tell of a step dies before: who wanted to, does it later. Where it was told, nobody does again."""
    monkeypatch.setattr(layer, "TELLING_S", 0.1)
    options = {"limit": "1000 tokens/rolling 1h", "ladder": {"20%": "warn"}, "webhook": {"url": hook.url}}
    store = Elsewhere()
    async with serve(policies=[entry("budget", **options)], registry=REGISTRY, store=store) as plane:
        for _ in range(3):
            await plane.chat("x-sim-tokens: 180", max_tokens=200)
        while not store.claims:
            await asyncio.sleep(0)
        if not dies:
            (duty,) = store._core.duties.held
            assert await MemoryStore.claim(store, duty, "another", 3600)
        while len(store.claims) < (3 if dies else 2):
            await asyncio.sleep(0.005)
        await plane.quiet()
    assert [told["threshold_percent"] for told, _, _ in hook.told] == ([20] if dies else [])
    assert [done for _, _, done in store.claims] == ([False, True, True] if dies else [False, False])


async def test_with_the_state_away_nobody_is_told_twice(
    serve: Serve, simulator: Simulator, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as nobody can say whose it is, it waits; what was told and couldn't be noted is noted later."""
    monkeypatch.setattr(layer, "TELLING_S", 0.02)
    monkeypatch.setattr(layer, "_DONE_S", 0.01)
    answers = iter([False, True, False, True])
    asked: list[bool] = []

    class Away(MemoryStore):
        async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
            asked.append(next(answers))
            if not asked[-1]:
                raise StateLost
            return await super().claim(duty, owner, ttl_s)

    options = {"limit": "1000 tokens/rolling 1h", "ladder": {"20%": "warn"}, "webhook": {"url": hook.url}}
    async with serve(policies=[entry("budget", **options)], registry=REGISTRY, store=Away()) as plane:
        for _ in range(3):
            await plane.chat("x-sim-tokens: 180", max_tokens=200)
        while len(asked) < 4:
            await asyncio.sleep(0.005)
        await plane.quiet()
    assert len(hook.told) == 1


async def test_tries_again(hook: Hook) -> None:
    """A webhook that fails is tried three times; one that refuses isn't."""
    pauses: list[float] = []

    async def sleep(s: float) -> None:
        pauses.append(s)

    hook.answers = [500, 503, 204]
    assert await post(hook.url, "{}", sleep=sleep) == {"status": 204}
    assert (len(hook.told), pauses) == (3, [1.0, 5.0])
    hook.answers = [400]
    assert await post(hook.url, "{}", sleep=sleep) == {"status": 400}
    assert len(hook.told) == 4
    assert await post("http://127.0.0.1:9/hook", "{}", sleep=sleep) == {"status": 0}


async def test_me(serve: Serve, simulator: Simulator) -> None:
    """`GET /weir/me` shows a client's own budgets and nobody else's."""
    policies = [
        entry("budget", 1, name="all", limit="10 USD/month"),
        entry("budget", 2, name="teams", per="team", limit="1 USD/month", overrides={"ads": "2 USD/month"}),
    ]
    keys = [key("wk-a", "key-a", team="search"), key("wk-b", "key-b", team="ads")]
    async with serve(policies=policies, registry=REGISTRY, keys=keys, store=MemoryStore()) as plane:
        await plane.chat("authorization: Bearer wk-a", max_tokens=10)
        search = (await plane.get("/weir/me", "authorization: Bearer wk-a")).json["budgets"]
        ads = (await plane.get("/weir/me", "authorization: Bearer wk-b")).json["budgets"]
    assert [(one["budget"], one["subject"], one["limit"]) for one in search] == [
        ("all", "everything", "10 USD/month"),
        ("teams", "team search", "1 USD/month"),
    ]
    assert [(one["subject"], one["limit"]) for one in ads[1:]] == [("team ads", "2 USD/month")]
    assert search[1]["spent"] > 0
    assert ads[1]["spent"] == 0
    assert search[0]["spent"] == ads[0]["spent"]


def written(directory: Path, csv: str | None, **options: Any) -> Path:
    """A deployment file whose policy file reads its limits from a CSV."""
    (directory / "weir.yaml").write_text(DEPLOYMENT)
    entry = {"use": "budget", "per": "team", "limit": "500 USD/month", "limits_from": "limits.csv", **options}
    (directory / "policies.yaml").write_text("version: 1\npolicies:\n  - " + orjson.dumps(entry).decode() + "\n")
    if csv is not None:
        (directory / "limits.csv").write_text(csv)
    return directory / "weir.yaml"


def test_limits_from(tmp_path: Path) -> None:
    """The file's rows reach the workers in the entry; a change of it is a change of the configuration."""
    path = written(tmp_path, "subject,limit,top_up,expires\nsearch,4000 USD/month,,\nsearch,,500 USD,2026-12-15\n")
    first = load(path, {})
    assert (tmp_path / "limits.csv").absolute() in first.watched
    config = budget.Config.model_validate(first.policies[0].options)
    assert [(row.subject, str(row.limit or row.top_up)) for row in config.rows] == [
        ("search", "4000 USD/month"),
        ("search", "500 USD"),
    ]
    (tmp_path / "limits.csv").write_text("subject,limit\nsearch,5000 USD/month\n")
    second = load(path, {})
    assert second.hash != first.hash
    assert second.policies[0].fingerprint != first.policies[0].fingerprint


@pytest.mark.parametrize(
    ("csv", "line", "message"),
    [
        ("", 1, "is empty"),
        ("team,limit\n", 1, "unknown column 'team'"),
        ("subject,limt\n", 1, "unknown column 'limt'"),
        ("subject,limit\na,5 USD/month\n\nb,5 EUR/month\n", 4, "'EUR' is no unit"),
        ("subject,limit\na,5 USD/month\na,6 USD/month\n", 3, "the same limit of 'a' stands in line 2"),
        ("subject,limit\n,5 USD/month\n", 2, "names no subject"),
        ("subject,limit,top_up,expires\na,,5 USD,\n", 2, "belong together"),
        ("subject,limit,top_up,expires\na,,5 USD,soon\n", 2, "expected a day"),
        ("subject,limit,top_up,expires\na,1 USD/day,5 USD,2026-12-01\n", 2, "needs a limit or a top_up"),
        ('subject,limit\na,"1,000 USD/month"\nb,1,000 USD/month\n', 3, "has 3 cells"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, csv: str, line: int, message: str) -> None:
    """Each mistake is named with the CSV's own line."""
    with pytest.raises(ConfigurationError) as error:
        load(written(tmp_path, csv), {})
    (problem,) = error.value.errors
    assert (Path(problem.file).name, problem.line) == ("limits.csv", line)
    assert message in problem.message


def test_no_such_file(tmp_path: Path) -> None:
    """A file that isn't there is a problem where it is named."""
    with pytest.raises(ConfigurationError) as error:
        load(written(tmp_path, None), {})
    (problem,) = error.value.errors
    assert (Path(problem.file).name, problem.path) == ("policies.yaml", "policies[0].limits_from")
