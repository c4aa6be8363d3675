"""`weir explain`: what a request would meet, the file:line that decided it, where it would go, what it could cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Weir

DEPLOYMENT = """\
version: 1
home: home
upstreams:
  openai: {url: https://api.openai.com/v1, key: "${UPSTREAM_KEY}"}
  local: {url: http://127.0.0.1:9/v1, provider: local}
models:
  gpt-4o-mini: {upstream: openai}
  fast:
    deployments:
      - {upstream: openai, model: gpt-4o-mini, weight: 3}
      - {upstream: local, model: made-up}
keys: required
policies: policies.yaml
"""
POLICIES = """\
version: 1
honour: {bypass: [branding]}
policies:
  - use: allow
    match: {team: support}
    models: [gpt-4o-mini, fast]
  - use: headers
    name: branding
    unless: {tag: env=test}
    request: {add: {x-brand: weir}}
"""
BODY = json.dumps(
    {"model": "gpt-4o-mini", "max_tokens": 100, "n": 2, "messages": [{"role": "user", "content": "x" * 4000}]}
)


@pytest.fixture
def key(weir: Weir, tmp_path: Path) -> str:
    """A key of the team support, beside files that are sound."""
    (tmp_path / "weir.yaml").write_text(DEPLOYMENT)
    (tmp_path / "policies.yaml").write_text(POLICIES)
    return weir("keys", "create", "--team", "support", "--model", "gpt-*", "--model", "fast").stdout.strip()


def explained(weir: Weir, *arguments: str, stdin: str = "") -> dict[str, Any]:
    done = weir("explain", "--json", *arguments, stdin=stdin, UPSTREAM_KEY="sk-test")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_names_every_layer_with_its_line(weir: Weir, key: str) -> None:
    """Each policy shows its file:line, whether the request meets it, and by which condition."""
    found = explained(weir, "--key", key, "-d", BODY)
    assert [(layer["name"], layer["verdict"], layer["source"]) for layer in found["layers"]] == [
        ("allow", "applies", "policies.yaml:4"),
        ("branding", "applies", "policies.yaml:7"),
    ]
    assert found["layers"][0]["reason"] == "match.team support"
    assert [layer["foretold"] for layer in found["layers"]] == ["lets it pass", "request: sets x-brand"]
    assert found["team"] == "support"


def test_a_policys_refusal_is_foretold(weir: Weir, key: str) -> None:
    """A layer that can say what it would do does so."""
    found = explained(weir, "--key", key, "-d", '{"model": "gpt-none", "messages": []}')
    assert found["layers"][0]["foretold"].startswith("refuses it with 403")


def test_request_headers_count(weir: Weir, key: str) -> None:
    """Tags and bypass are read from the headers as the data plane reads them."""
    tagged = explained(weir, "--key", key, "-d", BODY, "-H", "x-weir-tags: env=test")
    assert [layer["verdict"] for layer in tagged["layers"]] == ["applies", "excluded"]
    bypassing = explained(weir, "--key", key, "-d", BODY, "-H", "x-weir-bypass: branding, allow")
    assert [layer["verdict"] for layer in bypassing["layers"]] == ["applies", "bypassed"]


def test_says_where_it_goes_and_what_it_costs_at_most(weir: Weir, key: str) -> None:
    """The route has its deployments and shares; the worst case is priced, or said to be unpriced."""
    body = json.dumps(json.loads(BODY) | {"model": "fast"})
    found = explained(weir, "--key", key, "-d", body)
    targets = [(target["upstream"], target["model"], target["share"]) for target in found["route"]["targets"]]
    assert targets == [("openai", "gpt-4o-mini", 0.75), ("local", "made-up", 0.25)]
    priced, unpriced = found["worst_case"]
    # gpt-4o-mini: 0.15 and 0.60 USD per million tokens; two choices of 100 tokens each.
    assert priced["nanodollars"] == priced["input_tokens"] * 150 + 2 * 100 * 600
    assert (priced["output_cap"], priced["choices"]) == (100, 2)
    assert unpriced["nanodollars"] is None


def test_for_people(weir: Weir, key: str) -> None:
    """The same as lines, without colours in a pipe."""
    done = weir("explain", "--key", key, "-d", BODY, UPSTREAM_KEY="sk-test")
    for part in (
        "policies.yaml:4",
        "match.team support",
        "team support",
        "openai",
        "at most $0.",
        "100 out × 2 choices",
    ):
        assert part in done.stdout
    assert "\x1b" not in done.stdout
    assert key not in done.stdout


def test_without_a_cap_only_the_input_is_bounded(weir: Weir, key: str) -> None:
    """No number is passed off as the most, where nothing limits the output."""
    done = weir("explain", "--key", key, "-d", '{"model": "gpt-4o-mini", "messages": []}', UPSTREAM_KEY="sk-test")
    assert "no cap on output" in done.stdout
    assert "at most" not in done.stdout


def test_by_the_keys_id(weir: Weir, key: str) -> None:
    """Who has no key at hand names its id."""
    (listed,) = [json.loads(line) for line in weir("keys", "list", "--json").stdout.splitlines()]
    assert explained(weir, "--key", listed["id"], "-d", BODY)["key"] == listed["id"]


def test_body_from_file_or_input(weir: Weir, key: str, tmp_path: Path) -> None:
    """`@FILE` and `@-` read the body."""
    (tmp_path / "body.json").write_text(BODY)
    assert explained(weir, "--key", key, "-d", "@body.json")["bytes"] == len(BODY)
    assert explained(weir, "--key", key, "-d", "@-", stdin=BODY)["bytes"] == len(BODY)
    missing = weir("explain", "--key", key, "-d", "@nowhere.json", UPSTREAM_KEY="sk-test")
    assert missing.returncode == 1
    assert "nowhere.json" in missing.stderr


def test_other_endpoints(weir: Weir, key: str) -> None:
    """The endpoint is that of the path."""
    body = '{"model": "gpt-4o-mini", "input": "x"}'
    assert explained(weir, "--key", key, "--endpoint", "/v1/embeddings", "-d", body)["endpoint"] == "embeddings"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "wk-wrong"}, "refused with 401"),
        ({"body": '{"model": '}, "refused with 400"),
        ({"body": '{"model": "o1", "messages": []}'}, "refused with 403"),
        ({"endpoint": "/v2/x"}, "refused with 404"),
    ],
)
def test_refusals_are_those_of_the_proxy(weir: Weir, key: str, change: dict[str, str], said: str) -> None:
    """What the proxy would refuse before the chain is said with the status that the client would get."""
    arguments = ["--key", change.get("key", key), "-d", change.get("body", BODY)]
    done = weir(
        "explain", *arguments, "--endpoint", change.get("endpoint", "/v1/chat/completions"), UPSTREAM_KEY="sk-test"
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "wk-" not in done.stderr


def test_model_that_nobody_offers(weir: Weir, key: str) -> None:
    """A model without a deployment is said to have none."""
    body = '{"model": "gpt-none", "messages": []}'
    done = weir("explain", "--key", key, "-d", body, UPSTREAM_KEY="sk-test")
    assert done.returncode == 0
    assert "no deployment offers this model" in done.stdout
