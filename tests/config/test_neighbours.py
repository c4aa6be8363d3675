# ruff: noqa: E501  # a table reads best with a case a line
# a table reads best with a case a line
"""How policies go together, and with models and teams."""

from __future__ import annotations

import pytest

from .conftest import OPENAI, Directory

HEAD = f"version: 1\nupstreams:\n  {OPENAI}\npolicies: p.yaml\n"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("[{use: cache}, {use: retry}]", []),
        ("[{use: retry}, {use: cache}]", ["p.yaml:2:26: warning: policies[1]: cache belongs before retry (p.yaml:2): "
                                          "an answer from the cache needs no retry (the first is the outermost)"]),
        ("[{use: budget}, {use: cache}]", ["p.yaml:2:12: warning: policies[0]: budget belongs after cache (p.yaml:2) "
                                           "(the first is the outermost)"]),
        ("[{use: allow}, {use: allow}]", ["p.yaml:2:26: error: policies[1]: the name allow is taken by p.yaml:2 "
                                          "(give one of them another, as name: allow-2)"]),
        ("[{use: allow}, {use: allow, name: second}]", []),
    ],
)  # fmt: skip
def test_orders_and_names(directory: Directory, entries: str, expected: list[str]) -> None:
    """A policy that stands where it says it shouldn't is a warning; a name that is there twice is an error."""
    directory.write(weir=HEAD, p=f"version: 1\npolicies: {entries}\n")
    assert directory.problems() == expected


def test_orders_across_files(directory: Directory) -> None:
    """The order of the files counts too, and the other place is named."""
    directory.write(
        weir=HEAD.replace("p.yaml", "[a.yaml, b.yaml]"),
        a="version: 1\npolicies:\n  - use: retry\n",
        b="version: 1\npolicies:\n  - use: cache\n",
    )
    assert directory.problems() == [
        "b.yaml:3:5: warning: policies[0]: cache belongs before retry (a.yaml:3): "
        "an answer from the cache needs no retry (the first is the outermost)"
    ]


@pytest.mark.parametrize(
    ("models", "condition", "expected"),
    [
        ("{gpt-4o: {upstream: openai}}", "gpt-40", ["no model is offered as 'gpt-40' (did you mean gpt-4o?)"]),
        ("{gpt-4o: {upstream: openai}}", "gpt-*", []),
        ("{'gpt-*': {upstream: openai}}", "gpt-5", []),
        ("{'gpt-*': {upstream: openai}}", "claude", ["no model is offered as 'claude' (known: gpt-*)"]),
        ("{'*': {upstream: openai}}", "anything", []),
    ],
)
def test_models_that_nobody_offers(directory: Directory, models: str, condition: str, expected: list[str]) -> None:
    """A condition on a model that can't be asked for is probably a slip."""
    directory.write(
        weir=f"{HEAD}models: {models}\n",
        p=f"version: 1\npolicies:\n  - use: allow\n    match: {{model: {condition}}}\n",
    )
    assert directory.problems() == [f"p.yaml:4:20: warning: policies[0].match.model[0]: {text}" for text in expected]


def test_teams_that_nobody_declared(directory: Directory) -> None:
    """With a teams file, a team that isn't in it is probably a slip."""
    directory.write(
        weir=f"{HEAD}teams: t.yaml\n",
        t="version: 1\nteams: {support: {}, docs: {}}\n",
        p="version: 1\npolicies:\n  - use: allow\n    unless: {team: [suport, 'd*'], project: x}\n",
    )
    assert directory.problems() == [
        "p.yaml:4:21: warning: policies[0].unless.team[0]: there is no team 'suport' (did you mean support?)",
        "p.yaml:4:45: warning: policies[0].unless.project[0]: there is no project 'x' (there are none)",
    ]


def test_endpoints_that_do_not_exist(directory: Directory) -> None:
    """A condition on an endpoint that isn't one is probably a slip."""
    directory.write(
        weir=HEAD,
        p="version: 1\npolicies:\n  - use: allow\n    match: {endpoint: [chat.completion, 'audio.*', other]}\n",
    )
    assert directory.problems() == [
        "p.yaml:4:24: warning: policies[0].match.endpoint[0]: there is no endpoint 'chat.completion' (did you mean chat.completions?)"
    ]


def test_bypassing_what_is_not_there(directory: Directory) -> None:
    """Clients can only be allowed to skip policies of the chain."""
    directory.write(weir=HEAD, p="version: 1\nhonour: {bypass: [cach]}\npolicies: [{use: cache}]\n")
    assert directory.problems() == [
        "p.yaml:2:19: warning: honour.bypass[0]: there is no policy named 'cach' (did you mean cache?)"
    ]


def test_honour_is_said_once(directory: Directory) -> None:
    """Two files that disagree about clients' headers are an error at the second."""
    directory.write(
        weir=HEAD.replace("p.yaml", "[a.yaml, b.yaml]"),
        a="version: 1\nhonour: {tags: true}\n",
        b="version: 1\nhonour: {tags: false}\n",
    )
    assert directory.problems() == [
        "b.yaml:2:1: error: honour: differs from an earlier policy file's (say it in one file)"
    ]


@pytest.mark.parametrize(
    ("upstreams", "expected"),
    [
        ("{a: {url: https://a}}", ["weir.yaml:2:22: warning: upstreams.a.url: the address has no version "
                                   "(most servers answer under https://a/v1)"]),
        ('{a: {url: http://10.0.0.1/v1, key: "${OPENAI_API_KEY}"}}',
         ["weir.yaml:2:22: warning: upstreams.a.url: the key would travel unencrypted (use https)"]),
        ('{a: {url: http://127.0.0.1/v1, key: "${OPENAI_API_KEY}"}}', []),
        ('{a: {url: https://a/v1, auth: none, key: "${OPENAI_API_KEY}"}}',
         ["weir.yaml:2:42: error: upstreams.a.auth: none sends no key, but there is one (leave out one of the two)"]),
        ("{a: {url: https://a/v1}}\nkeys: required",
         ["weir.yaml:2:13: warning: upstreams.a: it gets no key: with `keys: required` those of clients stay here "
          '(write key: "${NAME}", or auth: none)']),
        ("{a: {url: https://a/v1, auth: none}}\nkeys: required", []),
        ("{a: {url: http://127.0.0.1/v1}}\nkeys: required", []),
        ("{a: {url: https://a/v1}, b: {url: https://b/v1}}\nmodels: {x: {upstream: a}}",
         ["weir.yaml:2:37: warning: upstreams.b: no model uses it"]),
    ],
)  # fmt: skip
def test_upstreams_that_are_probably_not_meant(directory: Directory, upstreams: str, expected: list[str]) -> None:
    """Settings that work but hurt are warnings; those that contradict each other are errors."""
    directory.write(weir=f"version: 1\nupstreams: {upstreams}\n")
    assert directory.problems() == expected
