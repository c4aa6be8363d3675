# ruff: noqa: E501  # a table reads best with a case a line
"""From files to a configuration: what is resolved, what wins, what is secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Address, Configuration, ConfigurationError, default_configuration, find
from proxy.config.source import read

from .conftest import ENV, OPENAI, REGISTRY, Directory

HEAD = f"version: 1\nupstreams:\n  {OPENAI}\n"
PUBLIC = "listen: 0.0.0.0:8787\n"
SHA = "a" * 64
TEAMS = f"version: 1\nteams: {{search: {{}}}}\nkeys: [{{id: k1, sha256: {SHA}, team: search}}]\n"


def test_the_smallest_file(directory: Directory) -> None:
    """One upstream is enough: every model is its, and the rest has defaults."""
    directory.write(weir=HEAD)
    deployment = directory.load().deployment
    assert deployment.models["*"].deployments[0].upstream == "openai"
    assert deployment.listen == Address("127.0.0.1", 8787)
    assert deployment.keys == "open"
    assert deployment.home == Path("/home/someone/.local/state/weir")
    assert deployment.upstreams["openai"].key.reveal() == "sk-canary-123"


def test_no_file() -> None:
    """Without a file everything goes to OpenAI with the client's own key, and nothing is changed."""
    found = default_configuration({}, registry=REGISTRY)
    upstream = found.deployment.upstreams["openai"]
    assert (upstream.url, upstream.key, found.policies) == ("https://api.openai.com/v1", None, ())


@pytest.mark.parametrize(
    ("env", "arguments", "name", "url"),
    [
        ({"UPSTREAM": "http://127.0.0.1:1/v1"}, {}, "upstream", "http://127.0.0.1:1/v1"),
        ({"UPSTREAM": "http://127.0.0.1:1/v1"}, {"upstream_url": "http://127.0.0.1:2/v1"}, "upstream", "http://127.0.0.1:2/v1"),
        ({"UPSTREAM": "http://127.0.0.1:1/v1"}, {"demo_url": "http://127.0.0.1:3/v1"}, "demo", "http://127.0.0.1:3/v1"),
    ],
)  # fmt: skip
def test_another_upstream(env: dict[str, str], arguments: dict[str, Any], name: str, url: str) -> None:
    """The demo wins over the option, the option over the environment."""
    assert default_configuration(env, **arguments).deployment.upstreams[name].url == url


def test_a_key_for_the_upstream() -> None:
    """A key of the upstream can be given without a file, and never shows."""
    found = default_configuration({"UPSTREAM_API_KEY": "canary"})
    key = found.deployment.upstreams["openai"].key
    assert key is not None and key.reveal() == "canary"
    assert "canary" not in f"{found!r} {found} {found.deployment!r} {key!r} {key} {found.shown()}"


def test_a_wrong_upstream_without_a_file() -> None:
    """A bad address in the environment is laid at its door."""
    with pytest.raises(ConfigurationError) as caught:
        default_configuration({"UPSTREAM": "localhost:8000"})
    assert str(caught.value).startswith("UPSTREAM: error: upstreams.upstream.url: expected an address such as")


def test_what_wins(directory: Directory) -> None:
    """The command line wins over the environment, the environment over the file."""
    directory.write(weir=f"{HEAD}listen: 127.0.0.1:1\nworkers: 1\nops: 127.0.0.1:9\n")
    env = {**ENV, "WEIR_LISTEN": "127.0.0.1:2", "WEIR_WORKERS": "2"}
    deployment = directory.load(env, listen="127.0.0.1:3").deployment
    assert (deployment.listen.port, deployment.workers, deployment.ops.port) == (3, 2, 9)


@pytest.mark.parametrize(
    ("env", "home"),
    [
        ({"WEIR_HOME": "/w"}, "/w"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/weir"),
        ({"HOME": "/h"}, "/h/.local/state/weir"),
    ],
)
def test_home(env: dict[str, str], home: str) -> None:
    """The directory of state follows the usual variables."""
    assert default_configuration(env).deployment.home == Path(home)


def test_finding_the_file(tmp_path: Path) -> None:
    """The variable wins, then the file of the directory; without either there is none here."""
    assert find({}, tmp_path) is None or find({}, tmp_path) == Path("/etc/weir/weir.yaml")
    (tmp_path / "weir.yaml").touch()
    assert find({}, tmp_path) == tmp_path / "weir.yaml"
    assert find({"WEIR_CONFIG": "other.yaml"}, tmp_path) == Path("other.yaml")


@pytest.mark.parametrize(
    ("extra", "env", "expected"),
    [
        ("", {}, "open"),
        ("keys: required\n", {}, "required"),
        ("teams: t.yaml\n", {}, "required"),
        ("teams: t.yaml\nkeys: open\n", {}, "open"),
        (f"{PUBLIC}keys: required\n", {}, "required"),
        (f"{PUBLIC}teams: t.yaml\n", {}, "required"),
        (PUBLIC, {"WEIR_CONTAINER": "1"}, "required"),
    ],
)
def test_when_keys_are_required(directory: Directory, extra: str, env: dict[str, str], expected: str) -> None:
    """Declared keys and public addresses require keys; only loopback can be open."""
    directory.write(weir=HEAD + extra, t=TEAMS)
    assert directory.load({**ENV, **env}).deployment.keys == expected


@pytest.mark.parametrize(
    ("extra", "env", "expected"),
    [
        (PUBLIC, {}, "weir.yaml:4:9: error: listen: 0.0.0.0:8787 can be reached from outside, and there are no keys "
                     "(write keys: required and make one with `weir keys create`, or listen on 127.0.0.1)"),
        (f"{PUBLIC}keys: open\n", {}, "weir.yaml:5:7: error: keys: 0.0.0.0:8787 can be reached from outside, and anyone could use it "
                                      "(write keys: required, or listen on 127.0.0.1)"),
        (f"{PUBLIC}keys: open\n", {"WEIR_CONTAINER": "1"}, "weir.yaml:5:7: error: keys: 0.0.0.0:8787 can be reached from outside, "
                                  "and anyone could use it (write keys: required, or listen on 127.0.0.1)"),
        ("", {"WEIR_LISTEN": ":80"}, "WEIR_LISTEN: error: listen: 0.0.0.0:80 can be reached from outside, and there are no keys "
                                     "(write keys: required and make one with `weir keys create`, or listen on 127.0.0.1)"),
    ],
)  # fmt: skip
def test_a_public_address_without_keys(directory: Directory, extra: str, env: dict[str, str], expected: str) -> None:
    """Nobody opens a proxy with a shared key to the world by accident."""
    directory.write(weir=HEAD + extra)
    assert directory.problems({**ENV, **env}) == [expected]


def test_policies_are_concatenated(directory: Directory) -> None:
    """Several files make one chain in their order; each entry knows its place, its zone and its options."""
    directory.write(
        weir=f"{HEAD}policies: [a.yaml, b.yaml]\n",
        a="version: 1\ntime_zone: Europe/Berlin\npolicies:\n  - use: allow\n",
        b='version: 1\npolicies:\n  - use: headers\n    name: "two"\n    rollout: 10%\n    request: {add: {a: b}}\n',
    )
    found = directory.load()
    first, second = found.policies
    assert (first.name, second.name, found.time_zone) == ("allow", "two", "Europe/Berlin")
    assert (first.time_zone, second.time_zone) == ("Europe/Berlin", "UTC")
    assert second.options == {"request": {"add": {"a": "b"}}}
    assert second.source == f"{directory.path}/b.yaml:3"
    assert second.rollout == 0.1


def test_fingerprints(directory: Directory) -> None:
    """A policy keeps its fingerprint while it moves, and gets another when anything of it changes."""

    def fingerprints(entries: str) -> list[str]:
        directory.write(weir=f"{HEAD}policies: p.yaml\n", p=f"version: 1\npolicies:\n{entries}")
        return [entry.fingerprint for entry in directory.load().policies]

    allow, headers = fingerprints("  - {use: allow, stateful: true}\n  - {use: headers}\n")
    assert fingerprints("  # moved\n  - {use: headers}\n  - {stateful: true, use: allow}\n") == [headers, allow]
    assert fingerprints("  - {use: allow, stateful: false}\n") != [allow]
    assert fingerprints("  - {use: allow, stateful: true, mode: observe}\n") != [allow]


def test_hashes(directory: Directory) -> None:
    """Each hash changes with what it stands for, and not with comments or another place of the same files."""
    directory.write(weir=f"{HEAD}policies: p.yaml\n", p="version: 1\npolicies: [{use: allow}]\n")
    before = directory.load()
    directory.write(p="version: 1\npolicies: [{use: allow, stateful: true}]\n")
    policy_changed = directory.load()
    assert policy_changed.policy_hash != before.policy_hash
    directory.write(weir=f"{HEAD}policies: p.yaml\nworkers: 2\n")
    deployment_changed = directory.load()
    assert deployment_changed.policy_hash == policy_changed.policy_hash
    assert len({before.hash, policy_changed.hash, deployment_changed.hash}) == 3
    directory.write(weir=f"# comment\n{HEAD}policies: p.yaml\nworkers: 2\n")
    assert directory.load().hash == deployment_changed.hash


def test_a_new_key_is_a_new_configuration(directory: Directory) -> None:
    """A key file that changes is noticed: it is watched, and the hash differs."""
    (directory.path / "key").write_text("canary-one\n")
    directory.write(weir="version: 1\nupstreams: {a: {url: https://a/v1, key: {file: key}}}\n")
    before = directory.load()
    assert directory.path / "key" in before.watched
    (directory.path / "key").write_text("canary-two\n")
    after = directory.load()
    assert after.deployment.upstreams["a"].key.reveal() == "canary-two"
    assert after.hash != before.hash


def test_secrets_never_show(directory: Directory) -> None:
    """What came from the environment is in the JSON for workers and nowhere else."""
    directory.write(
        weir=(
            'version: 1\nstate: "redis://:${CANARY}@host"\nledger: "postgresql://u:${CANARY}@host/db"\n'
            "policies: p.yaml\nupstreams:\n"
            '  a: {url: "https://a/v1", key: "${CANARY}", headers: {x-token: "${CANARY}"}, query: {token: "${CANARY}"},'
            ' proxy: "http://u:${CANARY}@proxy"}\n'
        ),
        p='version: 1\npolicies: [{use: headers, request: {add: {x-token: "${CANARY}"}}}]\n',
    )
    found = directory.load({"CANARY": "canary", "HOME": "/h"})
    everything = [found, found.deployment, found.policies, found.deployment.upstreams, found.warnings, found.shown()]
    assert "canary" not in " ".join(f"{thing!r} {thing}" for thing in everything)
    assert "canary" in found.model_dump_json()
    shown = found.shown()
    assert shown["deployment"]["upstreams"]["a"]["key"] == "${CANARY}"
    assert shown["deployment"]["state"] == "redis://:${CANARY}@host"
    assert shown["policies"][0]["options"]["request"]["add"] == {"x-token": "${CANARY}"}


def test_paths_are_relative_to_the_file(directory: Directory) -> None:
    """Paths in the deployment file start where it lies, not where the program runs."""
    (directory.path / "sub").mkdir()
    (directory.path / "sub/p.yaml").write_text("version: 1\n")
    (directory.path / "ca.pem").write_text("")
    directory.write(
        weir=f"{HEAD}  b: {{url: https://b/v1, ca: ca.pem}}\nmodels: {{'*': {{upstream: openai}}}}\nhome: state\npolicies: sub/p.yaml\n"
    )
    deployment = directory.load().deployment
    assert deployment.home == directory.path / "state"
    assert deployment.upstreams["b"].ca == directory.path / "ca.pem"
    assert deployment.policies == (directory.path / "sub/p.yaml",)


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [("gpt-4o", "gpt-4o"), ("gpt-4o-mini", "gpt-4o-*"), ("gpt-5", "gpt-*"), ("claude", "*")],
)
def test_the_model_for_a_name(directory: Directory, asked: str, pattern: str) -> None:
    """An exact name first, then the pattern that says most."""
    models = ", ".join(f'"{name}": {{upstream: openai}}' for name in ("*", "gpt-*", "gpt-4o-*", "gpt-4o"))
    directory.write(weir=f"{HEAD}models: {{{models}}}\n")
    found = directory.load().model_for(asked)
    assert found is not None and found[0] == pattern


def test_a_model_that_is_not_offered(directory: Directory) -> None:
    """Without a pattern for it, a model isn't there."""
    directory.write(weir=f"{HEAD}models: {{gpt-4o: {{upstream: openai}}}}\n")
    assert directory.load().model_for("gpt-4") is None


def test_the_design_files_load(directory: Directory) -> None:
    """A usual pair of files loads whole, with what each line means."""
    directory.write(
        weir=HEAD + "  local: {url: http://127.0.0.1:8000/v1}\nmodels:\n  gpt-4o-mini: {upstream: openai}\n"
        "  llama: {deployments: [{upstream: local, model: llama-3.1-8b}], balance: least-latency}\n"
        '  "*": {upstream: openai}\npolicies: p.yaml\n',
        p="version: 1\npolicies:\n  - use: cache\n    match: {team: [support, docs]}\n    rollout: 10%\n    max_error: 2%\n",
    )
    found = directory.load()
    assert found.deployment.models["llama"].balance == "least-latency"
    assert found.policies[0].match.team == ("support", "docs")
    assert found.warnings == ()


def test_the_round_trip_of_a_loaded_one(directory: Directory) -> None:
    """What a worker reads is what the supervisor loaded."""
    directory.write(
        weir=f"{HEAD}policies: p.yaml\nteams: t.yaml\nops: off\ncors: {{origins: '*'}}\nprices: {{m: {{input: 0.10}}}}\n",
        p="version: 1\npolicies: [{use: allow, match: {time: '22:00-06:00', size: '> 1 KiB'}, rollout: 7%}]\n",
        t=TEAMS.replace("team: search}", "team: search, expires: 2027-12-31}"),
    )
    found = directory.load()
    again = Configuration.model_validate_json(found.model_dump_json())
    assert again == found
    key = again.deployment.upstreams["openai"].key
    assert key is not None and key.reveal() == "sk-canary-123"
    assert again.deployment.ops is None
    assert json.loads(found.model_dump_json()) == json.loads(again.model_dump_json())


def test_a_problem_has_a_place_for_editors() -> None:
    """Reading alone already gives places, also for what comes after an error."""
    source = read("f.yaml", b'a: "${NO}"\nb: "${NEITHER}"\n', {})
    assert [problem.where for problem in source.problems] == ["f.yaml:1:4", "f.yaml:2:4"]
