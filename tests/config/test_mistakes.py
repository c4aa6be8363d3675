# ruff: noqa: E501  # a table reads best with a case a line
"""Mistakes that people make in these files, and exactly what they are told."""

from __future__ import annotations

import pytest

from proxy.config import ConfigurationError

from .conftest import OPENAI, Directory

HEAD = f"version: 1\nupstreams:\n  {OPENAI}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"upstreams:\n  {OPENAI}\n", ["weir.yaml:1:1: error: version: is missing (The form of this file; write 1)"]),
        (HEAD.replace("1", "2", 1), ["weir.yaml:1:10: error: version: expected 1, found 2"]),
        ("version: 1\n", ["weir.yaml:1:1: error: upstreams: is missing (Providers' APIs and servers of your own, by name)"]),
        ("version: 1\nupstreams: {}\n", ["weir.yaml:2:12: error: upstreams: needs at least 1 entry"]),
        ("version: 1\nupstreams:\n", ["weir.yaml:2:1: error: upstreams: has no value (give it one, or leave the key out)"]),
        ("- version: 1\n", ["weir.yaml:1:1: error: expected a mapping (lines of `key: value`), found a list"]),
        (HEAD + "\tlisten: x\n", ["weir.yaml:4:1: error: a tab can't indent here (indent with spaces)"]),
        (HEAD + "lisen: 127.0.0.1:1\n", ["weir.yaml:4:1: error: lisen: unknown key (did you mean listen?)"]),
        (HEAD + "Limits: {}\n", ["weir.yaml:4:1: error: Limits: unknown key (did you mean limits?)"]),
        (HEAD + "limits: {body-bytes: 5}\n", ["weir.yaml:4:10: error: limits.body-bytes: unknown key (did you mean body_bytes?)"]),
        (HEAD + "limits: {body_bytes: 32 mb}\n", ["weir.yaml:4:22: error: limits.body_bytes: 'mb' is no unit of size (write 32 MB)"]),
        (HEAD + "limits: {headers: 0}\n", ["weir.yaml:4:19: error: limits.headers: must be at least 1, found 0"]),
        (HEAD + "limits: {headers: many}\n", ["weir.yaml:4:19: error: limits.headers: expected a whole number, found 'many'"]),
        (HEAD + "timeouts: {total_s: 10min}\n", ["weir.yaml:4:21: error: timeouts.total_s: 'min' is no unit of time (write 10m)"]),
        (HEAD + "timeouts: {total_s: 0}\n", ["weir.yaml:4:21: error: timeouts.total_s: must be more than 0, found 0"]),
        (HEAD + "timeouts: 10s\n", ["weir.yaml:4:11: error: timeouts: expected a mapping (lines of `key: value`), found '10s'"]),
        (HEAD + "half_close: answr\n", ["weir.yaml:4:13: error: half_close: expected gone or answer, found 'answr' (did you mean answer?)"]),
        (HEAD + "cors: {origins: '*', credentials: yes}\n",
         ["weir.yaml:4:35: error: cors.credentials: expected true or false, found 'yes' (write true)"]),
        (HEAD + "listen: http://127.0.0.1:80\n", ["weir.yaml:4:9: error: listen: expected an address such as 127.0.0.1:8787, "
                                                  "found 'http://127.0.0.1:80' (leave out the scheme and the path)"]),
        (HEAD + "ops: 127.0.0.1:8787\n", ["weir.yaml:4:6: error: ops: 127.0.0.1:8787 is taken by listen (give it another port)"]),
        (HEAD + "admin: 0.0.0.0:8788\n", ["weir.yaml:4:8: error: admin: 0.0.0.0:8788 can be reached from outside "
                                          "(the admin address stays on 127.0.0.1)"]),
        (HEAD + "state: reddis://host\n", ["weir.yaml:4:8: error: state: expected an address such as "
                                           "sqlite:///state.db or redis://host:6379/0 (did you mean redis?)"]),
        (HEAD + "ledger: postgresql://me:canary@host/db\n",
         ["weir.yaml:4:9: error: ledger: a password can't be written into the file (take it from the environment: user:${NAME}@host)"]),
        (HEAD + "version: 1\n", ["weir.yaml:4:1: error: version: written twice, first in line 1 (keep one of them)"]),
        (HEAD + "policies: p.yml\n", ["weir.yaml:4:11: error: policies: can't read p.yml: no such file or directory"]),
        (HEAD + "tls: {cert: c.pem}\n", ["weir.yaml:4:6: error: tls.key: is missing (Its key, PEM)",
                                         "weir.yaml:4:13: error: tls.cert: there is no file c.pem"]),
        (HEAD + "prices: {gpt: {gpu_hour: 2}}\n",
         ["weir.yaml:4:15: error: prices.gpt: gpu_hour and tokens_per_gpu_hour belong together (give both)"]),
        (HEAD + "prices: {gpt: {input: cheap}}\n",
         ["weir.yaml:4:23: error: prices.gpt.input: expected a number, found 'cheap'"]),
    ],
)  # fmt: skip
def test_deployment_file(directory: Directory, text: str, expected: list[str]) -> None:
    """Each mistake is named at its place, with what would be right."""
    directory.write(weir=text)
    assert directory.problems() == expected


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("{url: api.openai.com/v1}", "12: error: upstreams.a.url: expected an address such as https://api.openai.com/v1 "
                                     "(it begins with https:// or http://)"),
        ("{url: https://h/v1/chat/completions}", "12: error: upstreams.a.url: the address must end before /chat/completions "
                                                 "(the endpoint is added to it)"),
        ("{url: https://me:canary@h/v1}", "12: error: upstreams.a.url: a key doesn't belong into the address "
                                          '(write key: "${NAME}" beside it)'),
        ("{url: https://h/v1?api-version=1}", "12: error: upstreams.a.url: the address can't hold a query "
                                              "(write query: {name: value} beside it)"),
        ("{url: https://h:99999/v1}", "12: error: upstreams.a.url: the port of the address is no port (ports end at 65535)"),
        ("{key: x}", None),
        ("https://h/v1", "6: error: upstreams.a: expected a mapping (lines of `key: value`), found 'https://h/v1'"),
        ("{url: https://h/v1, auth: baerer}", "32: error: upstreams.a.auth: expected bearer, api-key, x-api-key or none, "
                                              "found 'baerer' (did you mean bearer?)"),
        ("{url: https://h/v1, ca: ca.pem}", "30: error: upstreams.a.ca: there is no file ca.pem"),
        ("{url: https://h/v1, proxy: socks5://p:1}", "33: error: upstreams.a.proxy: expected an address such as "
                                                     "http://proxy:3128 (CONNECT over plain http is what is spoken)"),
    ],
)  # fmt: skip
def test_upstreams(directory: Directory, upstream: str, expected: str | None) -> None:
    """An upstream's mistakes; the column is that of the value."""
    directory.write(weir=f"version: 1\nupstreams:\n  a: {upstream}\n")
    found = directory.problems()
    if expected is None:
        assert found[0].startswith("weir.yaml:3:6: error: upstreams.a.url: is missing (The base address")
    else:
        assert found == [f"weir.yaml:3:{expected}"]


KEY_HINT = '(set a variable and write key: "${NAME}", or write key: {file: path})'


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk-canary-literal", f"2:41: error: upstreams.a.key: a key can't be written into the file {KEY_HINT}"),
        ("$OPENAI_API_KEY", f"2:41: error: upstreams.a.key: a key can't be written into the file {KEY_HINT}"),
        ('"Bearer ${OPENAI_API_KEY}"', f"2:41: error: upstreams.a.key: a key can't be written into the file {KEY_HINT}"),
        ('"${OPENAI_API_KEY:-canary}"',
         '2:41: error: upstreams.a.key: a key can\'t have a default in the file (write key: "${OPENAI_API_KEY}")'),
        ('"${OPENAI_APIKEY}"',
         "2:41: error: upstreams.a.key: the environment variable OPENAI_APIKEY isn't set (did you mean OPENAI_API_KEY?)"),
        ('"${ZZZ}"', "2:41: error: upstreams.a.key: the environment variable ZZZ isn't set (set it)"),
        ('"${EMPTY}"', "2:41: error: upstreams.a.key: the environment variable EMPTY is empty"),
        ('"${SPACED}"', "2:41: error: upstreams.a.key: the environment variable SPACED holds a space, a line break or a character "
                        "outside ASCII"),
        ("{file: missing}", "2:48: error: upstreams.a.key.file: can't read missing: no such file or directory"),
        ("{file: key.txt}", "2:48: error: upstreams.a.key.file: the key in key.txt holds a space, a line break or a character "
                            "outside ASCII"),
        ("{path: key.txt}", "2:42: error: upstreams.a.key.path: unknown key (write key: {file: path})"),
    ],
)  # fmt: skip
def test_keys(directory: Directory, key: str, expected: str) -> None:
    """A key that isn't taken from the environment or a file is refused, and no part of it is repeated."""
    directory.write(weir=f"version: 1\nupstreams: {{a: {{url: https://h/v1, key: {key}}}}}\n")
    (directory.path / "key.txt").write_text("canary canary\n")
    found = directory.problems({"OPENAI_API_KEY": "sk-canary", "EMPTY": "", "SPACED": "canary canary"})
    assert found == [f"weir.yaml:{expected}"]
    assert not any("canary" in problem for problem in found)


def test_several_upstreams_need_models(directory: Directory) -> None:
    """With two upstreams, somebody has to say which is asked."""
    directory.write(weir="version: 1\nupstreams: {a: {url: https://a/v1}, b: {url: https://b/v1}}\n")
    assert directory.problems() == [
        "weir.yaml:1:1: error: models: is missing: with several upstreams, it says which of them is asked "
        '(write models: {"*": {upstream: name}})'
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{upstream: opnai}", ["weir.yaml:5:17: error: models.m.upstream: there is no upstream 'opnai' (did you mean openai?)"]),
        ("{deployments: [{upstream: opnai}]}",
         ["weir.yaml:5:32: error: models.m.deployments[0].upstream: there is no upstream 'opnai' (did you mean openai?)"]),
        ("{upstream: openai, balanc: weighted}", ["weir.yaml:5:25: error: models.m.balanc: unknown key (did you mean balance?)"]),
        ("{upstream: openai, weight: 0}", ["weir.yaml:5:33: error: models.m.weight: must be more than 0, found 0"]),
        ("openai", ["weir.yaml:5:6: error: models.m: expected a mapping, found 'openai' (write {upstream: openai})"]),
        ("{upstraem: openai}", ["weir.yaml:5:7: error: models.m.upstraem: unknown key (did you mean upstream?)"]),
        ("{model: x}", ["weir.yaml:5:6: error: models.m: names no upstream "
                        "(write {upstream: name} or {deployments: [{upstream: name}]})"]),
        ("{deployments: []}", ["weir.yaml:5:20: error: models.m.deployments: needs at least 1 entry"]),
    ],
)  # fmt: skip
def test_models(directory: Directory, model: str, expected: list[str]) -> None:
    """A model's mistakes."""
    directory.write(weir=f"{HEAD}models:\n  m: {model}\n  '*': {{upstream: openai}}\n")
    assert directory.problems() == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("use: hedaers", ["p.yaml:3:10: error: policies[0].use: there is no policy 'hedaers' (did you mean headers?)"]),
        ("use: broken", ["p.yaml:3:10: error: policies[0].use: the policy broken can't be loaded: "
                         "ImportError: no module named 'numpy'"]),
        ("match: {team: a}", ["p.yaml:3:5: error: policies[0].use: is missing (The policy)"]),
        ("headers", ["p.yaml:3:5: error: policies[0]: expected a mapping that begins with use: name (write use: headers)"]),
        ("{use: allow, mach: {team: a}}", ["p.yaml:3:18: error: policies[0].mach: unknown key (did you mean match?)"]),
        ("{use: allow, model: x}", ["p.yaml:3:18: error: policies[0].model: unknown key (did you mean models?)"]),
        ("{use: allow, stateful: perhaps}", ["p.yaml:3:28: error: policies[0].stateful: expected true or false, found 'perhaps'"]),
        ("{use: allow, models: 5}", ["p.yaml:3:26: error: policies[0].models: expected a list, found 5 "
                                     "(each entry on a line that begins with -)"]),
        ("{use: headers, request: {add: {a: [b]}}}",
         ["p.yaml:3:39: error: policies[0].request.add.a: expected text, found a list"]),
        ("{use: headers, request: {ad: {a: b}}}",
         ["p.yaml:3:30: error: policies[0].request.ad: unknown key (did you mean add?)"]),
        ("{use: cache, tll: 5}", ["p.yaml:3:18: error: policies[0].tll: unknown key (did you mean ttl?)"]),
        ("{use: cache, max_error: 2}", ["p.yaml:3:29: error: policies[0].max_error: expected a percentage such as 5% or 0.5%, "
                                        'found 2 (write "2%")']),
        ("{use: cache, null_means_something: }", []),
        ("{use: allow, rollout: 5}", ["p.yaml:3:27: error: policies[0].rollout: expected a percentage such as 5% or 0.5%, found 5 "
                                      '(write "5%")']),
        ("{use: allow, mode: dry-run}", ["p.yaml:3:24: error: policies[0].mode: expected off, observe or on, found 'dry-run'"]),
        ("{use: allow, mode: true}", []),
        ("{use: allow, match: {team: []}}", ["p.yaml:3:32: error: policies[0].match.team: an empty list never matches "
                                             "(name something, or leave the key out)"]),
        ("{use: allow, match: {team: }}", ["p.yaml:3:26: error: policies[0].match.team: has no value "
                                           "(give it one, or leave the key out)"]),
        ("{use: allow, match: {stream: yes}}", ["p.yaml:3:34: error: policies[0].match.stream: expected true or false, "
                                                "found 'yes' (write true)"]),
        ("{use: allow, unless: {teams: a}}", ["p.yaml:3:27: error: policies[0].unless.teams: unknown key (did you mean team?)"]),
        ("{use: allow, match: {size: [1 MiB]}}", ["p.yaml:3:33: error: policies[0].match.size[0]: expected a comparison such as "
                                                  "> 20 KiB or 4 KiB - 20 KiB, found '1 MiB' (write > 1 MiB, or < 1 MiB)"]),
    ],
)  # fmt: skip
def test_policy_entries(directory: Directory, entry: str, expected: list[str]) -> None:
    """A policy's mistakes, in the envelope and in its own options alike."""
    assert directory.policy_problems(f"  - {entry}\n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\npolicies: {use: allow}\n", ["p.yaml:2:11: error: policies: expected a list, found a mapping "
                                                  "(each entry on a line that begins with -)"]),
        ("policies: []\n", ["p.yaml:1:1: error: version: is missing (The form of this file; write 1)"]),
        ("version: 1\npolices: []\n", ["p.yaml:2:1: error: polices: unknown key (did you mean policies?)"]),
        ("version: 1\ntime_zone: Europe/Belrin\n",
         ["p.yaml:2:12: error: time_zone: 'Europe/Belrin' is no time zone (write one such as Europe/Berlin or UTC)"]),
        ("version: 1\ntime_zone: Europe\n",
         ["p.yaml:2:12: error: time_zone: 'Europe' is no time zone (write one such as Europe/Berlin or UTC)"]),
        ("version: 1\nhonour: {bypas: []}\n", ["p.yaml:2:10: error: honour.bypas: unknown key (did you mean bypass?)"]),
        ("- use: allow\n", ["p.yaml:1:1: error: expected a mapping (lines of `key: value`), found a list"]),
        ("text\n", ["p.yaml:1:1: error: expected a mapping (lines of `key: value`), found 'text'"]),
    ],
)  # fmt: skip
def test_policy_file(directory: Directory, text: str, expected: list[str]) -> None:
    """Mistakes of the policy file itself."""
    directory.write(weir=f"{HEAD}policies: p.yaml\n", p=text)
    assert directory.problems() == expected


def test_everything_at_once(directory: Directory) -> None:
    """All files' problems come in one go; a syntax error in one hides nothing of the others."""
    directory.write(
        weir=f"{HEAD}workers: none\npolicies: [a.yaml, b.yaml]\nteams: t.yaml\n",
        a="version: 1\npolicies:\n\t- use: x\n",
        b="version: 1\npolicies:\n  - use: alow\n  - {use: headers, requst: {}}\n",
        t="version: 1\nkeys: [{id: a, sha256: canary}]\n",
    )
    assert directory.problems() == [
        "weir.yaml:4:10: error: workers: expected a whole number, found 'none'",
        "t.yaml:2:24: error: keys[0].sha256: expected 64 hexadecimal digits "
        "(make a key with `weir keys create`; never write the key itself)",
        "a.yaml:3:1: error: a tab can't indent here (indent with spaces)",
        "b.yaml:3:10: error: policies[0].use: there is no policy 'alow' (did you mean allow?)",
        "b.yaml:4:20: error: policies[1].requst: unknown key (did you mean request?)",
    ]


def test_a_similar_file_is_named(directory: Directory) -> None:
    """A file that isn't there is answered by the one that was probably meant."""
    directory.write(weir=f"{HEAD}policies: polices.yaml\n", policies="version: 1\n")
    assert directory.problems() == [
        "weir.yaml:4:11: error: policies: can't read polices.yaml: no such file or directory (did you mean policies.yaml?)"
    ]


def test_no_deployment_file(directory: Directory) -> None:
    """A deployment file that isn't there is one error without a line."""
    assert directory.problems() == ["weir.yaml: error: can't read weir.yaml: no such file or directory"]


def test_options_of_the_command_line(directory: Directory) -> None:
    """What the command line or the environment got wrong is laid at their door, not at the file's."""
    directory.write(weir=f"{HEAD}listen: 127.0.0.1:1\n")
    assert directory.problems(listen="nowhere") == [
        "--listen: error: listen: expected an address such as 127.0.0.1:8787, found 'nowhere' (write the port after a colon)"
    ]
    env = {"OPENAI_API_KEY": "x", "WEIR_WORKERS": "two"}
    assert directory.problems(env) == ["WEIR_WORKERS: error: workers: expected a whole number, found 'two'"]


def test_a_substituted_value_is_shown_as_it_was_written(directory: Directory) -> None:
    """What came from the environment is not shown in an error, its variable is."""
    directory.write(weir=f'{HEAD}workers: "${{SECRET}}"\n')
    env = {"OPENAI_API_KEY": "x", "SECRET": "canary"}
    assert directory.problems(env) == ["weir.yaml:4:10: error: workers: expected a whole number, found '${SECRET}'"]


def test_the_error_carries_the_files(directory: Directory) -> None:
    """A configuration with errors still names its files, so that a correction is noticed."""
    directory.write(weir=f"{HEAD}policies: p.yaml\n", p="version: 2\n")
    with pytest.raises(ConfigurationError) as caught:
        directory.load()
    assert set(caught.value.watched) >= {directory.path / "weir.yaml", directory.path / "p.yaml"}
    assert [problem.column for problem in caught.value.errors] == [10]
