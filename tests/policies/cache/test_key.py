"""The key: what can change an answer changes it, what can't doesn't. Hypothesis prints the seed of a failure."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cache.key import asked, key_of, uncacheable
from proxy.exchange import Identity
from tests.policies.cache.asking import ALICE, request

TOOL = {
    "type": "function",
    "function": {
        "name": "level",
        "parameters": {"type": "object", "properties": {"gauge": {"type": "string"}, "at": {"type": "string"}}},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"properties": {"first": {"type": "string"}, "then": {"type": "number"}}}},
}
WORDS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How high is it? 河"}]

# Each field with values that mean different things; the first is what a request has that leaves the field out.
UNSET = object()
SAMPLING: dict[str, list[Any]] = {
    "temperature": [1, 0, 0.5],
    "top_p": [1, 0.9],
    "seed": [UNSET, 1, 2],
    "max_tokens": [UNSET, 16, 17],
    "user_made_up": [UNSET, 1, "1", True, None, {"a": 1}, 0],
}
COUNTED = {"n": [1, 2], "presence_penalty": [0, 0.5], "frequency_penalty": [0, -1], "logit_bias": [{}, {"50256": -100}]}
FIELDS: dict[str, dict[str, list[Any]]] = {
    "chat": {
        **SAMPLING,
        **COUNTED,
        "messages": [
            WORDS,
            [*WORDS, {"role": "assistant", "content": "Low."}, WORDS[1]],
            WORDS[1:],
            [{**WORDS[0], "role": "developer"}, WORDS[1]],
            [WORDS[0], {"role": "user", "content": "How high is it? 河 "}],
            [WORDS[0], {"role": "user", "content": [{"type": "text", "text": "How high is it? 河"}]}],
        ],
        "stop": [UNSET, "\n", ["\n"], ["a", "b"], ["b", "a"]],
        "max_completion_tokens": [UNSET, 16],
        "logprobs": [False, True],
        "top_logprobs": [0, 3],
        "response_format": [{"type": "text"}, {"type": "json_object"}, SCHEMA],
        "tools": [[], [TOOL], [TOOL, {**TOOL, "function": {**TOOL["function"], "name": "flow"}}]],
        "tool_choice": ["auto", "none", "required", {"type": "function", "function": {"name": "level"}}],
        "parallel_tool_calls": [True, False],
        "reasoning_effort": [UNSET, "low", "high"],
        "verbosity": [UNSET, "low"],
        "modalities": [["text"]],
        "prediction": [UNSET, {"type": "content", "content": "x"}],
    },
    "completions": {
        **SAMPLING,
        **COUNTED,
        "prompt": ["a", ["a"], "b", [1, 2]],
        "stop": [UNSET, "\n"],
        "logprobs": [UNSET, 0, 2],
        "echo": [False, True],
        "suffix": [UNSET, "."],
        "best_of": [UNSET, 3],
    },
    "responses": {
        **SAMPLING,
        "store": [False],
        "input": ["a", "b", [{"role": "user", "content": "a"}]],
        "instructions": [UNSET, "Be brief."],
        "max_output_tokens": [UNSET, 16],
        "tools": [[], [{"type": "function", "name": "level", "parameters": {}}]],
        "tool_choice": ["auto", "required"],
        "text": [{"format": {"type": "text"}}, {"format": {"type": "json_object"}}],
        "reasoning": [UNSET, {"effort": "low"}],
        "truncation": ["disabled", "auto"],
        "include": [[], ["reasoning.encrypted_content"]],
    },
    "messages": {
        **SAMPLING,
        "messages": [WORDS[1:], [{"role": "user", "content": "?"}]],
        "system": [UNSET, "Be brief.", [{"type": "text", "text": "Be brief."}]],
        "stop_sequences": [[], ["\n"]],
        "top_k": [UNSET, 5],
        "thinking": [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}],
        "tools": [[], [{"name": "level", "input_schema": {"type": "object"}}]],
        "tool_choice": [{"type": "auto"}, {"type": "any"}],
    },
    "embeddings": {
        "input": ["a", ["a"], ["a", "b"], ["b", "a"], "A"],
        "dimensions": [UNSET, 64],
        "encoding_format": ["float", "base64"],
    },
    "moderations": {"input": ["a", "b"]},
    "speech": {"input": ["a", "b"], "voice": ["alloy", "ash"], "response_format": ["mp3", "wav"], "speed": [1, 1.5]},
}
DELIVERY: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "metadata": {"ticket": "7"},
}


@st.composite
def choices(draw: st.DrawFn) -> tuple[str, dict[str, int]]:
    """A kind of request, and which value each of its fields has."""
    kind = draw(st.sampled_from(sorted(FIELDS)))
    return kind, {name: draw(st.integers(0, len(values) - 1)) for name, values in FIELDS[kind].items()}


def fields(kind: str, chosen: dict[str, int], model: str = "gpt-4o-mini") -> dict[str, Any]:
    """The request, with what is left out left out."""
    told = {name: FIELDS[kind][name][index] for name, index in chosen.items()}
    return {"model": model, **{name: value for name, value in told.items() if value is not UNSET}}


def key(kind: str, body: dict[str, Any] | bytes, share: Any = "user", **about: Any) -> str:
    made = request(kind, body, **about)
    assert uncacheable(made, sampled=True) is None
    return key_of(made, share)


@given(choices(), st.data())
def test_whatever_can_change_the_answer_misses(made: tuple[str, dict[str, int]], data: st.DataObject) -> None:
    """Another value of any one field is another request; so is another model."""
    kind, chosen = made
    name = data.draw(st.sampled_from([name for name in chosen if len(FIELDS[kind][name]) > 1]))
    other = data.draw(st.integers(0, len(FIELDS[kind][name]) - 1).filter(lambda index: index != chosen[name]))
    assert key(kind, fields(kind, chosen)) != key(kind, fields(kind, {**chosen, name: other}))
    assert key(kind, fields(kind, chosen)) != key(kind, fields(kind, chosen, model="gpt-4o"))


@given(choices(), st.data())
def test_whatever_cannot_change_the_answer_hits(made: tuple[str, dict[str, int]], data: st.DataObject) -> None:
    """The order of fields, spaces, escapes, 1.0 for 1, defaults spelled out or left out, and how it is delivered."""
    kind, chosen = made
    told = fields(kind, chosen)
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for name, index in chosen.items():  # the first value is the one that leaving out means
        if index == 0 and name not in ("messages", "prompt", "input", "voice", "store") and rng.random() < 0.5:
            told.pop(name, None)
    for name, value in told.items():
        if type(value) is int and rng.random() < 0.5:
            told[name] = float(value)
    told |= {name: value for name, value in DELIVERY.items() if rng.random() < 0.5}
    names = list(told)
    rng.shuffle(names)
    told = {name: told[name] for name in names}
    text = json.dumps(told, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 2)))
    assert key(kind, text.encode()) == key(kind, fields(kind, chosen))


KNOWN = {*DELIVERY, "user", "safety_identifier", "model"}.union(*FIELDS.values()) | {
    *("background", "previous_response_id", "conversation", "container", "mcp_servers", "web_search_options"),
    *("audio", "function_call", "functions", "max_tool_calls", "stream_format"),
}


@given(st.sampled_from(sorted(FIELDS)), st.text(min_size=1, max_size=20), st.data())
def test_fields_that_nobody_knows_count(kind: str, name: str, data: st.DataObject) -> None:
    """A field of tomorrow's API, with any value and its type, is part of the key: also a false, a null and an empty."""
    base = fields(kind, dict.fromkeys(FIELDS[kind], 0))
    if name in KNOWN:
        return  # of any endpoint: hypothesis draws names that stand in the code
    values: list[Any] = [None, False, 0, "", [], {}, True, 1, "1", 1.5, [1], {"a": None}]
    keys = [key(kind, base), *(key(kind, {**base, name: value}) for value in values)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("value", [True, 1, "audio", {"audio": 1}])
def test_a_field_of_another_type_is_for_the_upstream_to_judge(value: Any) -> None:
    """It is part of the key, and nothing here fails by it."""
    base = fields("chat", dict.fromkeys(FIELDS["chat"], 0))
    assert key("chat", {**base, "modalities": value}) != key("chat", base)


@pytest.mark.parametrize("kind", FIELDS)
def test_null_is_none_where_it_is_known(kind: str) -> None:
    """SDKs that send null for what isn't set ask the same as those that leave it out."""
    base = fields(kind, dict.fromkeys(FIELDS[kind], 0))
    needed = ("messages", "prompt", "input", "voice", "store", "user_made_up")
    nulls = dict.fromkeys([name for name in FIELDS[kind] if name not in needed])
    assert key(kind, {**base, **nulls}) == key(kind, base)


def test_an_answer_follows_the_order_of_its_schema() -> None:
    """The properties of a response format and of a tool, in another order, are another request."""
    for fields_of in (
        lambda pairs: {"response_format": {"json_schema": {"schema": {"properties": dict(pairs)}}}},
        lambda pairs: {"tools": [{"type": "function", "function": {"parameters": {"properties": dict(pairs)}}}]},
    ):
        pairs = [("first", {}), ("then", {})]
        one, two = ({"model": "m", "messages": WORDS, **fields_of(p)} for p in (pairs, pairs[::-1]))
        assert key("chat", one) != key("chat", two)
    turned = [{"content": "Be brief.", "role": "system"}, WORDS[1]]
    assert key("chat", {"model": "m", "messages": turned}) == key("chat", {"model": "m", "messages": WORDS})


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"m","messages":[{"role":"user","content":"B","content":"A"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"A"}],"stop":"x","stop":null}',
        b'{"model":"m","messages":[{"role":"user","content":"A"}],"seed":0,"logit_bias":{"1":1,"1":0},"seed":null}',
        b'{"model": "m", "messages": [{"role": "user", "content": "B", "content": "A"}]}',
    ],
)
def test_what_can_be_read_two_ways_is_not_what_we_read(text: bytes) -> None:
    """A name given twice: whoever reads the first and whoever reads the last must not share an entry."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "A"}]}
    assert key("chat", text) not in (key("chat", plain), key("chat", orjson.loads(text)))
    assert key("chat", text) == key("chat", text)


def test_numbers_that_no_double_tells_apart_are_told_apart() -> None:
    """Huge and very exact numbers aren't rounded into the same key, and don't break it."""
    texts = [
        b'{"model":"m","messages":[],"seed":%s}' % number
        for number in (b"18446744073709551616", b"18446744073709551617", b"0.1", b"0.10000000000000000001", b"1e300")
    ]
    assert len({key("chat", text) for text in texts}) == len(texts)


def test_large_bodies_are_their_bytes() -> None:
    """Above 256 KiB the same bytes hit, others don't, whether they are text or an image."""
    for content in ("word " * 80_000, [{"type": "image_url", "image_url": {"url": "data:," + "A" * 400_000}}]):
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        assert key("chat", body) == key("chat", body)
        assert key("chat", body) != key("chat", {**body, "temperature": 0})
        assert key("chat", body) != key("chat", body, identity=Identity("other"))


def test_headers_and_query_that_choose_a_version() -> None:
    """Those that do, and those that the policy names, are part of the key, whatever their order; others aren't."""
    body = {"model": "m", "messages": WORDS}
    beta, org = (b"anthropic-beta", b"context-1m"), (b"openai-organization", b"org-1")
    keys = {
        key("chat", body),
        key("chat", body, headers=[beta]),
        key("chat", body, headers=[(beta[0], b"context-2m")]),
        key("chat", body, headers=[org]),
        key("chat", body, headers=[beta, org]),
        key("chat", body, query=b"api-version=1"),
        key("chat", body, query=b"api-version=2"),
    }
    assert len(keys) == 7
    assert key("chat", body, headers=[org, (b"user-agent", b"x"), beta]) == key("chat", body, headers=[beta, org])
    variant = request("chat", body, headers=[(b"x-variant", b"b")])
    assert key_of(variant, "user") == key("chat", body)
    assert key_of(variant, "user", frozenset((b"x-variant",))) != key("chat", body)


@given(st.tuples(*[st.sampled_from(("", "a", "b", "a/b", "user", "key"))] * 4), st.data())
def test_who_shares(who: tuple[str, str, str, str], data: st.DataObject) -> None:
    """Never across tenants; across keys and end users only where the policy says so."""
    other = data.draw(st.tuples(*[st.sampled_from(("", "a", "b", "a/b", "user", "key"))] * 4))

    def made(share: Any, of: tuple[str, str, str, str]) -> str:
        tenant, its_key, user, team = of
        named = {"user": user} if user else {}
        body = {"model": "m", "messages": WORDS, **named}
        return key("chat", body, share, identity=Identity(tenant, key=its_key, team=team))

    assert (made("tenant", who) == made("tenant", other)) is (who[0] == other[0])
    assert (made("key", who) == made("key", other)) is (who[:2] == other[:2])
    assert (made("user", who) == made("user", other)) is (who[:3] == other[:3])


def test_end_users_are_told_apart_by_any_name() -> None:
    """Two that share one name for them, but not the other, are two."""
    base = {"model": "m", "messages": WORDS}
    named = [
        {},
        {"user": "1"},
        {"safety_identifier": "1"},
        {"metadata": {"user_id": "1"}},
        {"user": "2", "safety_identifier": "1"},
        {"user": "1", "safety_identifier": "1"},
        {"user": 1},
    ]
    assert len({key("chat", {**base, **names}) for names in named}) == len(named)
    assert key("chat", {**base, "metadata": {"ticket": "1"}}) == key("chat", base)


IMAGE = {"type": "input_file", "file_id": "file-abc123"}
PASSED: list[tuple[str, str, dict[str, Any]]] = [
    ("sampled", "chat", {}),
    ("sampled", "chat", {"temperature": None}),
    ("sampled", "chat", {"temperature": 1}),
    ("sampled", "chat", {"temperature": False}),
    ("sampled", "messages", {"temperature": 0.1}),
    ("stored", "responses", {"input": "a"}),
    ("stored", "responses", {"input": "a", "store": None}),
    ("stored", "chat", {"store": True, "temperature": 0}),
    ("stateful", "responses", {"store": False, "previous_response_id": "resp_1"}),
    ("stateful", "responses", {"store": False, "conversation": {"id": "conv_1"}}),
    ("stateful", "responses", {"store": False, "background": True}),
    ("stateful", "responses", {"store": False, "prompt": {"id": "pmpt_1"}}),
    ("stateful", "responses", {"store": False, "input": [{"role": "user", "content": [IMAGE]}]}),
    ("stateful", "responses", {"store": False, "input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("stateful", "messages", {"container": "container_1"}),
    ("stateful", "chat", {"modalities": ["text", "audio"]}),
    ("tools", "chat", {"tools": [{"type": "web_search"}]}),
    ("tools", "chat", {"tools": ["?"]}),
    ("tools", "chat", {"tools": {"type": "mcp"}}),
    ("tools", "chat", {"web_search_options": {"search_context_size": "low"}}),
    ("tools", "messages", {"mcp_servers": [{"url": "x"}]}),
    ("tools", "messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
]


@pytest.mark.parametrize(("why", "kind", "told"), PASSED)
def test_what_passes_by(why: str, kind: str, told: dict[str, Any]) -> None:
    """What is stored, stateful, sampled, or calls the provider's tools isn't answered from memory, and is told why."""
    made = request(kind, {"model": "m", "messages": [], **told})
    assert asked(made, sampled=why != "sampled").why == why


def test_what_never_varies_needs_no_temperature() -> None:
    """Embeddings, moderations and speech are kept as they are; chat at temperature 0."""
    for kind in ("embeddings", "moderations", "speech"):
        assert uncacheable(request(kind, {"model": "m", "input": "a"}), sampled=False) is None
    for temperature in (0, 0.0, -0.0):
        made = request("chat", {"model": "m", "messages": [], "temperature": temperature})
        assert uncacheable(made, sampled=False) is None


def test_only_understood_bodies() -> None:
    """What is listed, retrieved or uploaded passes by."""
    made = request("chat", {"model": "m", "messages": []})
    assert uncacheable(made.using(headers=[]), sampled=True) is None
    empty = type(made)(ALICE and made.exchange, made.endpoint, "GET", made.target, made.path, [], b"", None)
    assert uncacheable(empty, sampled=True) == "endpoint"
