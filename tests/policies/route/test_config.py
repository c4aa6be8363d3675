"""What the file may say: mistakes at their places, what rules leave to the policy, what `weir explain` tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from policies import route
from policies.route.config import Choice, Config, Rule, Target
from proxy.config import ConfigurationError, load
from proxy.config.registry import installed
from proxy.exchange import Identity
from proxy.explain import asked, met

PAGE = Path(__file__).parents[3] / "docs/guide/route.md"


def written(directory: Path, *lines: str) -> Path:
    text = "\n    ".join(["version: 1\npolicies:\n  - use: route", *lines])
    (directory / "policies.yaml").write_text(text + "\n")
    deployment = directory / "weir.yaml"
    deployment.write_text("version: 1\nupstreams: {up: {url: http://127.0.0.1:9/v1}}\npolicies: policies.yaml\n")
    return deployment


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["prefer: cheapest", "to: [a, b]"], "policies.yaml:4:13"),
        (["to: [a, b, a]"], "'a' is there more than once"),
        (["prefer: cost"], "says no model"),
        (["rules: [{match: {language: de}}]"], "rule 1: says no model"),
        (["rules: [{to: a}, {match: {model: b}, to: c}]"], "rule 1 is for every request: no later one is ever met"),
        (["to: [a, b, c]", "prefer: score"], "prefer: score is between two models, not 3"),
        (["to: [a, asked]", "prefer: score"], "name the model in place of asked"),
        (["to: [{model: a, lacks: sight}]"], "policies.yaml:4:28"),
        (["to: [{model: a, context: 128 KiB}]"], "write 2000, 100k or 1M"),
        (["rules: [{match: {langauge: de}, to: a}]"], "did you mean language?"),
        (["to: a", "stickey: off"], "did you mean sticky?"),
    ],
)
def test_mistakes(tmp_path: Path, lines: list[str], message: str) -> None:
    """Each is named with its file, line and column, and what would be right."""
    with pytest.raises(ConfigurationError) as error:
        load(written(tmp_path, *lines), {"HOME": str(tmp_path)})
    assert message in str(error.value)


def test_models_that_nobody_offers(tmp_path: Path) -> None:
    """They are warned of where they are written, with what was probably meant."""
    deployment = written(tmp_path, "rules: [{match: {language: de}, to: [gpt-4o-min, asked]}]", "to: [gpt-4o-mini, x]")
    text = deployment.read_text() + "models: {gpt-4o-mini: {upstream: up}, gpt-4o: {upstream: up}}\n"
    deployment.write_text(text)
    first, second = [str(warning) for warning in load(deployment, {"HOME": str(tmp_path)}).warnings]
    assert "policies.yaml:4:42: warning: policies[0].rules[0].to[0]: no model is offered as 'gpt-4o-min'" in first
    assert "did you mean gpt-4o-mini?" in first
    assert "no model is offered as 'x'" in second


def test_rules_leave_the_rest_to_the_policy() -> None:
    """What a rule says counts for it, everything else is the policy's; the last rule is the policy itself."""
    config = Config.model_validate(
        {
            "to": ["a", {"model": "b", "lacks": "tools", "context": "8k"}],
            "prefer": "cost",
            "sticky": False,
            "rules": [{"match": {"model": "x"}, "to": "c"}, {"match": {"model": "y"}, "prefer": "order"}],
        }
    )
    first, second, last = config.complete
    assert ([target.model for target in first.to], first.prefer, first.sticky) == (["c"], "cost", "off")
    assert ([target.model for target in second.to], second.prefer) == (["a", "b"], "order")
    assert (last.to[1].context, last.to[1].lacks, last.total) == (8000, ("tools",), True)
    with pytest.raises(ValidationError):
        Config.model_validate({"to": "a", "pays_within": 0})


def test_explain(tmp_path: Path) -> None:
    """`weir explain` names the rule that a request would meet, and between what it chooses."""
    lines = ["rules: [{match: {language: de}, to: small}]", "to: [small, large]", "prefer: cost"]
    configuration = load(written(tmp_path, *lines), {"HOME": str(tmp_path)})
    foretold = []
    for text in ("Wie geht es dir, und was machst du?", "How are you, and what do you do?"):
        body = b'{"model": "large", "messages": [{"role": "user", "content": "%b"}]}' % text.encode()
        request = asked(configuration, Identity("t"), "/v1/chat/completions", [], body)
        foretold.append(met(configuration, request, installed())[0].foretold)
    assert foretold == ["rule 1: to small, if it fits", "rule 2: to one of small, large, by cost"]


def test_the_page_names_everything() -> None:
    """Every option, action and reason is in the guide."""
    text = PAGE.read_text()
    for fields in (Config, Rule, Target, Choice):
        assert all(f"`{name}`" in text for name in fields.model_fields)
    source = "".join(path.read_text() for path in Path(route.__file__).parent.glob("*.py"))
    for name in ("routed", "kept", "stayed", "switched", "none_fits", "unavailable", "max_usd", "x-weir-route"):
        assert name in source
        assert f"`{name}`" in text
