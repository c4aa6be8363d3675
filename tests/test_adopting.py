"""A worker takes over a configuration in small steps, and keeps what is as it was."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.adopting import Adopting
from proxy.config import Configuration
from proxy.config.loading import load
from proxy.gently import STEP_S

POLICIES = 20


def told(directory: Path, changed: str = "0", unit: str = "a") -> str:
    """What a supervisor tells; `changed` is an option of the first policy, `unit` a tag of the team."""
    upstreams = {"openai": {"url": "https://api.openai.com/v1", "key": "${K}"}}
    deployment = {"version": 1, "upstreams": upstreams, "teams": "t.yaml", "policies": "p.yaml"}
    entries = [
        {"use": "headers", "name": f"h{n}", "match": {"team": ["s*"]}, "request": {"add": {"x": "0" if n else changed}}}
        for n in range(POLICIES)
    ]
    teams = {"version": 1, "teams": {"search": {"tags": {"unit": unit}}}}
    policies = {"version": 1, "time_zone": "Europe/Berlin", "honour": {"bypass": "h1"}, "policies": entries}
    for name, data in (("weir", deployment), ("t", teams), ("p", policies)):
        (directory / f"{name}.yaml").write_text(json.dumps(data))
    configuration = load(directory / "weir.yaml", {"K": "sk-canary"})
    return configuration.model_dump_json(exclude={"teams": {"keys"}, "watched": True, "warnings": True})


async def test_it_is_what_was_told(tmp_path: Path) -> None:
    """The same configuration as the text read at once, keys of upstreams and references included."""
    text = told(tmp_path)
    taken = await Adopting().take(text)
    assert taken == Configuration.model_validate_json(text)
    assert taken.model_dump_json() == Configuration.model_validate_json(text).model_dump_json()


async def test_what_is_as_it_was_stays(tmp_path: Path) -> None:
    """One changed option makes one entry anew; all others, the teams and the deployment are the very same objects."""
    adopting = Adopting()
    first, second = await adopting.take(told(tmp_path)), await adopting.take(told(tmp_path, changed="1"))
    assert second.deployment is first.deployment and second.teams is first.teams
    same = [new is old for new, old in zip(second.policies, first.policies, strict=True)]
    assert same == [False] + [True] * (POLICIES - 1)
    third = await adopting.take(told(tmp_path, changed="1", unit="b"))
    assert third.teams != second.teams and third.policies[0] is second.policies[0]


async def test_requests_come_between(tmp_path: Path) -> None:
    """Where each look at the clock finds a step's time used up, the loop has a turn after each entry; where nothing
    changed and time stands still, none."""
    turns, done = 0, False

    async def others() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    text = told(tmp_path)
    beside = asyncio.create_task(others(), name="requests")
    await Adopting(itertools.count(0, STEP_S).__next__).take(text)
    assert turns >= POLICIES
    turns = 0
    await Adopting(lambda: 0.0).take(text)
    assert turns == 0
    done = True
    await beside


async def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    """An entry that isn't one raises, and the next text is taken over as if it hadn't been."""
    adopting, text = Adopting(), told(tmp_path)
    with pytest.raises(ValidationError):
        await adopting.take(text.replace('"use":"headers"', '"use":[]', 1))
    assert await adopting.take(text) == Configuration.model_validate_json(text)
