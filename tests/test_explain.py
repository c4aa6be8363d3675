"""What a request would meet: each layer has its verdict, and a reason that names what was wanted and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.config.configuration import Configuration
from proxy.config.deployment import DeploymentFile
from proxy.config.policies import Honour, PolicyEntry
from proxy.explain import layers, route

NIGHT = datetime(2026, 1, 5, 23, 30, tzinfo=UTC)


@dataclass
class Asked:
    """A request as conditions see it."""

    endpoint: str = "chat.completions"
    model: str | None = None
    team: str | None = None
    project: str | None = None
    key: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    served_model: str | None = None
    tools: bool = False
    stream: bool = False
    size_bytes: int = 0
    tokens: int = 0
    language: str | None = None
    time: Callable[[], datetime] = lambda: NIGHT


def configuration(*policies: dict[str, Any], honour: Honour | None = None, **models: Any) -> Configuration:
    entries = [
        PolicyEntry.model_validate({"name": each.get("use", "x"), "source": f"p.yaml:{line}", **each})
        for line, each in enumerate(policies, 1)
    ]
    deployment = DeploymentFile.model_validate(
        {
            "version": 1,
            "upstreams": {"a": {"url": "http://127.0.0.1:1/v1"}, "b": {"url": "http://127.0.0.1:2/v1"}},
            "models": models or {"*": {"upstream": "a"}},
        }
    )
    return Configuration(deployment=deployment, policies=tuple(entries), honour=honour or Honour())


@pytest.mark.parametrize(
    ("policy", "verdict", "reason"),
    [
        ({}, "applies", "no conditions"),
        ({"mode": "off"}, "off", "mode is off"),
        ({"mode": "observe"}, "observes", "no conditions"),
        ({"match": {"team": ["search", "docs"]}}, "applies", "match.team search or docs"),
        ({"match": {"team": ["support", "docs"]}}, "unmatched", "match.team is support or docs, here search"),
        ({"match": {"project": "p"}}, "unmatched", "match.project is p, here none"),
        ({"match": {"tag": "env=prod"}}, "unmatched", "match.tag is env=prod, here env=test"),
        ({"match": {"stream": True}}, "unmatched", "match.stream is true, here false"),
        ({"match": {"size": "> 20 KiB"}}, "unmatched", "match.size is > 20 KiB, here 1,000 B"),
        ({"match": {"time": "09:00-17:00"}}, "unmatched", "match.time is 09:00-17:00, here mon 23:30"),
        ({"match": {"time": "00:00-06:00"}, "time_zone": "Europe/Berlin"}, "applies", "match.time 00:00-06:00"),
        ({"unless": {"model": "gpt-*"}}, "excluded", "unless.model gpt-*"),
        ({"unless": {"model": "o1"}}, "applies", "no conditions"),
        ({"rollout": "0%"}, "not rolled out", "rolled out to 0%, not to this one"),
        ({"holdout": "100%"}, "held out", "in the control group of 100%"),
    ],
)
def test_verdicts(policy: dict[str, Any], verdict: str, reason: str) -> None:
    """Each way to meet a layer, or not to, is told apart and told why."""
    asked = Asked(model="gpt-4o", team="search", tags={"env": "test"}, size_bytes=1000)
    (layer,) = layers(configuration({"use": "cache", **policy}), asked, draw="k")
    assert (layer.verdict, layer.reason) == (verdict, reason)
    assert layer.source == "p.yaml:1"
    assert layer.met == (verdict in ("applies", "observes"))


def test_all_failing_conditions_are_named() -> None:
    """Whoever corrects one condition shouldn't find the next one only afterwards."""
    (layer,) = layers(configuration({"use": "cache", "match": {"team": "x", "stream": True}}), Asked(), draw="k")
    assert layer.reason == "match.team is x, here none; match.stream is true, here false"


def test_order_is_that_of_the_file() -> None:
    """The outermost layer comes first."""
    found = layers(configuration({"use": "budget"}, {"use": "cache"}), Asked(), draw="k")
    assert [layer.name for layer in found] == ["budget", "cache"]


def test_bypass_needs_the_files_consent() -> None:
    """A client's wish to skip a policy counts only where the policy file honours it."""
    named = frozenset({"cache"})
    (refused,) = layers(configuration({"use": "cache"}), Asked(), draw="k", bypass=named)
    (granted,) = layers(
        configuration({"use": "cache"}, honour=Honour(bypass=("cache",))), Asked(), draw="k", bypass=named
    )
    assert (refused.verdict, granted.verdict) == ("applies", "bypassed")


def test_route_names_every_deployment_and_its_share() -> None:
    """A weighted model may go to several places; each has its model's name there and its share."""
    two = {"deployments": [{"upstream": "a", "weight": 1}, {"upstream": "b", "model": "other", "weight": 3}]}
    found = route(configuration(fast=two), "fast")
    assert found is not None
    assert [(target.upstream, target.model, target.share) for target in found.targets] == [
        ("b", "other", 0.75),
        ("a", "fast", 0.25),
    ]


def test_route_by_pattern_and_none() -> None:
    """A pattern that offers the model is named; a model that nobody offers has no route."""
    only = configuration(**{"gpt-*": {"upstream": "a"}})
    found = route(only, "gpt-4o")
    assert found is not None
    assert (found.pattern, found.targets[0].model) == ("gpt-*", "gpt-4o")
    assert route(only, "claude") is None
