"""Bodies against Python's own json: what is read, where it stands, what a change changes, and what is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import body as module
from proxy.body import ACTED_ON, NESTING, WHOLE_BYTES, Body, scan
from proxy.errors import WeirError

SPACES = ["", "", "", " ", "\n", "\t", "\r\n", "  \n "]
NAMES = st.one_of(
    st.sampled_from([*ACTED_ON, "user", "metadata", "temperature", "", "naïve", 'quo"te', "back\\slash", "a/b", "🙂"]),
    st.text(max_size=6),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False, width=64),
    st.text(max_size=12),
    st.sampled_from(["model", '"model"', '{"model":1}', "\\", '\\"', "]}", "[{", ":", ",", "\\u006d", *ACTED_ON]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=8)
CHANGES = st.dictionaries(NAMES, VALUES, min_size=1, max_size=3)


def render(value: Any, chance: random.Random) -> str:
    """JSON with white space and escapes wherever they may be."""
    space = chance.choice
    if isinstance(value, dict):
        fields = [
            f"{space(SPACES)}{quoted(name, chance)}{space(SPACES)}:{space(SPACES)}{render(item, chance)}{space(SPACES)}"
            for name, item in value.items()
        ]
        return "{" + (",".join(fields) or space(SPACES)) + "}"
    if isinstance(value, list):
        items = [f"{space(SPACES)}{render(item, chance)}{space(SPACES)}" for item in value]
        return "[" + (",".join(items) or space(SPACES)) + "]"
    if isinstance(value, str):
        return quoted(value, chance)
    return json.dumps(value)


def quoted(text: str, chance: random.Random) -> str:
    """A string in which some characters are escaped that need not be."""
    plain = json.dumps(text, ensure_ascii=chance.random() < 0.3)[1:-1]
    if plain.isalnum() and chance.random() < 0.15:
        at = chance.randrange(len(plain))
        if plain[at].isascii():
            plain = f"{plain[:at]}\\u{ord(plain[at]):04x}{plain[at + 1 :]}"
    return f'"{plain.replace("/", chance.choice(["/", chr(92) + "/"]))}"'


def written(fields: list[tuple[str, str]], chance: random.Random) -> bytes:
    """An object of names and values that are rendered already."""
    inner = ",".join(f"{chance.choice(SPACES)}{name}{chance.choice(SPACES)}:{value}" for name, value in fields)
    return (chance.choice(SPACES) + "{" + inner + "}" + chance.choice(SPACES)).encode()


def whole(raw: bytes) -> Body:
    """Read as small bodies are."""
    return scan(raw)


def skipped(raw: bytes) -> Body:
    """Read as large bodies of few strings are."""
    return Body(raw, {}, dict(module._members(raw, NESTING)), False)


MODES = pytest.mark.parametrize("read", [whole, skipped])


@MODES
@given(value=OBJECTS, seed=st.integers(0, 2**32))
@settings(max_examples=120)
def test_fields_are_what_json_reads(read: Any, value: dict[str, Any], seed: int) -> None:
    """Every field by name, all of them at once, none that isn't there."""
    raw = render(value, random.Random(seed)).encode()
    body = read(raw)
    for name, item in value.items():
        assert same(body.get(name), item)
        assert name in body
    assert same(body.fields, value)
    assert body.get("absent") is None
    assert body.get("absent", 5) == 5
    assert ("absent" in body) is ("absent" in value)
    assert body.raw == raw
    assert len(body) == len(raw)


def same(ours: Any, theirs: Any) -> bool:
    """Equal, with types: 1 isn't true, and 1.0 isn't 1."""
    return orjson.dumps(ours, option=orjson.OPT_SORT_KEYS) == orjson.dumps(theirs, option=orjson.OPT_SORT_KEYS)


@MODES
@given(value=OBJECTS, seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_a_span_is_exactly_the_value(read: Any, value: dict[str, Any], seed: int) -> None:
    """What stands there is the value, from its first byte to its last."""
    body = read(render(value, random.Random(seed)).encode())
    for name, item in value.items():
        span = body.span(name)
        assert span is not None
        text = body.raw[slice(*span)]
        assert text == text.strip()
        assert same(json.loads(text), item)
    assert body.span("absent") is None or "absent" in value


@MODES
@given(value=OBJECTS, rounds=st.lists(CHANGES, min_size=1, max_size=3), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_a_change_changes_what_it_says_and_nothing_else(
    read: Any, value: dict[str, Any], rounds: list[dict[str, Any]], seed: int
) -> None:
    """Several changes after one another; all other fields keep their bytes, with their white space, in their place."""
    chance = random.Random(seed)
    texts = {name: chance.choice(SPACES) + render(item, chance) + chance.choice(SPACES) for name, item in value.items()}
    raw = written([(quoted(name, chance), text) for name, text in texts.items()], chance)
    body, expected = read(raw), dict(value)
    changed: set[str] = set()
    for changes in rounds:
        before = body.raw
        body = body.using(changes)
        expected |= changes
        changed |= set(changes)
        assert same(json.loads(body.raw), expected)
        assert same(body.fields, expected)
        for name in changes:
            assert same(body.get(name), changes[name])
            assert same(json.loads(body.raw[slice(*(body.span(name) or (0, 0)))]), changes[name])
        assert len(before) >= 2
    place = 0
    for name, text in texts.items():
        if name not in changed:
            found = body.raw.find(text.encode(), place)
            assert found >= 0
            place = found + len(text.encode())


def test_a_change_leaves_every_other_byte() -> None:
    """Also odd ones: white space, escapes, big numbers, fields given twice, their order."""
    raw = b' {\r\n "model" :\t"a" , "x":1.0e+2,"x":0.10, "big":18446744073709551615,"s":"\\u00e9\\/"\n} \n'
    assert scan(raw).using({"model": "b"}).raw == raw.replace(b'"a"', b'"b"')
    assert scan(raw).using({"new": [1]}).raw == raw.replace(b"{", b'{"new":[1],', 1)
    assert scan(b" { } ").using({"a": 1, "b": None}).raw == b' {"a":1,"b":null } '
    assert scan(b"{}").using({"a": 1}).using({"a": 2}).raw == b'{"a":2}'


def test_a_field_is_found_where_it_is_and_not_where_it_is_spoken_of() -> None:
    """Names within strings, values and nested objects are none of its business, also after a change before."""
    cases = [
        (b'{"a":"model","model":"x"}', b'{"a":"model","model":"new"}'),
        (b'{"metadata":{"model":"y"},"model":"x"}', b'{"metadata":{"model":"y"},"model":"new"}'),
        (b'{"a":"\\"model\\":\\"y\\"","model":"x"}', b'{"a":"\\"model\\":\\"y\\"","model":"new"}'),
        (b'{"metadata":{"model":"y"},"mod\\u0065l":"x"}', b'{"metadata":{"model":"y"},"mod\\u0065l":"new"}'),
        (b'{"a":"model","mod\\u0065l":"x"}', b'{"a":"model","mod\\u0065l":"new"}'),
    ]
    for raw, expected in cases:
        assert scan(raw).using({"model": "new"}).raw == expected
        assert scan(raw).using({"model": "first"}).using({"model": "new"}).raw == expected
        assert scan(raw).using({"other": 1}).using({"model": "new"}).get("model") == "new"
        assert json.loads(scan(raw).using({"other": 1}).using({"model": "new"}).raw)["model"] == "new"


# --- what is refused


def refusal(raw: bytes, nesting: int = NESTING) -> WeirError:
    with pytest.raises(WeirError) as raised:
        scan(raw, nesting)
    assert raised.value.status == 400
    return raised.value


NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"}",
    b"{]",
    b'{"a"}',
    b'{"a":}',
    b'{"a":1,}',
    b"{,}",
    b'{"a":1 "b":2}',
    b"{'a':1}",
    b"{a:1}",
]
NOT_JSON += [
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":.5}',
    b'{"a":1.}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":1e999}',
    b'{"a":tru}',
]
NOT_JSON += [
    b'{"a":"\n"}',
    b'{"a":"\\x"}',
    b'{"a":"\\ud800"}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"a":1}}',
    b'{"a":1}x',
]
NOT_JSON += [
    b"[]",
    b"null",
    b'"a"',
    b"1",
    b"\xef\xbb\xbf{}",
    b"{}\x00",
    b"//\n{}",
    b'{"a":1}{"b":2}',
    b'{"a":' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("raw", NOT_JSON)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    """400, and the message says nothing of the content."""
    error = refusal(raw)
    assert error.code == "invalid_json"
    if len(raw) > 100:
        assert raw[5:100].decode() not in error.message


@pytest.mark.parametrize("name", ACTED_ON)
def test_fields_that_are_acted_on_stand_once(name: str) -> None:
    """However they are spelled and whatever stands between; others may stand twice, and keep their bytes."""
    token = json.dumps(name).encode()
    spelled = b'"\\u%04x%b"' % (ord(name[0]), name[1:].encode())
    for second in (token, spelled, token + b" \t\r\n"):
        for raw in (b"{%b:1,%b:1}" % (token, second), b'{%b:1,"a":[{}],%b:2}' % (second, token)):
            error = refusal(raw)
            assert (error.code, error.param) == ("duplicate_field", name)
    assert scan(b'{%b:1,"a":{%b:2},"b":"%b"}' % (token, token, name.encode())).get(name) == 1
    assert scan(b'{"a":1,"a":2}').get("a") == 2


def nested(levels: int, opening: bytes = b'{"a":', closing: bytes = b"}") -> bytes:
    return b'{"x":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    """As deep as allowed passes, one level more doesn't, small or large; brackets in strings don't count."""
    step = 2 if len(closing) == 2 else 1
    for pad in (b"", b"x" * (WHOLE_BYTES + 1)):
        for limit in (9, NESTING - 1):
            fits = nested((limit - 1) // step + 1, opening, closing)[:-1] + b',"pad":"%b"}' % pad
            assert scan(fits, limit).get("pad") == pad.decode()
            deeper = nested((limit - 1) // step + 2, opening, closing)[:-1] + b',"pad":"%b"}' % pad
            assert refusal(deeper, limit).code == "invalid_json"
    assert scan(b'{"a":"' + b"[{" * 1000 + b'"}').get("a") == "[{" * 1000


def test_a_deployment_may_allow_more_nesting() -> None:
    """A body that was allowed can also be changed."""
    raw = nested(100)[:-1] + b',"model":"a","b":"model"}'
    assert scan(raw, 200).using({"model": "b"}).get("model") == "b"
    large = raw[:-1] + b',"pad":"' + b"x" * (WHOLE_BYTES + 1) + b'"}'
    assert scan(large, 200).using({"model": "b"}).get("model") == "b"


# --- large bodies


IMAGE = "A" * (2 * WHOLE_BYTES)
PROSE = ("word " * 40 + '"quoted" ') * (2 * WHOLE_BYTES // 209)
STRINGS = pytest.mark.parametrize("text", [IMAGE, PROSE], ids=["image", "prose"])


def large(text: str, **fields: Any) -> bytes:
    """A vision request, or one with a long prompt: one long string."""
    return orjson.dumps({"model": "m", "messages": [{"role": "user", "content": [{"url": text}]}], **fields})


@STRINGS
def test_a_large_body_is_skipped_through(text: str) -> None:
    """Nothing is parsed that nobody asks for; what is asked for is right."""
    body = scan(large(text, n=2, stream=True))
    assert not body._fields
    assert (body.get("model"), body.get("n"), body.get("stream")) == ("m", 2, True)
    assert "messages" not in body._fields
    assert body.get("messages")[0]["content"][0]["url"] == text
    changed = body.using({"model": "other", "new": 1})
    assert (changed.get("model"), changed.get("new")) == ("other", 1)
    assert json.loads(changed.raw) == {**json.loads(body.raw), "model": "other", "new": 1}


@pytest.mark.parametrize(
    "end",
    [
        b',"model":"other"}',
        b',"mod\\u0065l":"other"}',
        b"}x",
        b"}}",
        b"",
        b',"a":NaN}',
        b',"a":[}',
        b',"a":{]}',
        b',"a":"}',
        b",",
    ],
)
@STRINGS
def test_a_large_body_is_refused_as_a_small_one(text: str, end: bytes) -> None:
    """Duplicates, brackets that don't match, what is cut short and what follows."""
    refusal(large(text)[:-1] + end)


@given(value=OBJECTS, names=st.sampled_from(["", "m\\o", "é", '"']))
def test_spans_by_lengths_are_those_by_searching(value: dict[str, Any], names: str) -> None:
    """The same fields at the same places; names that are longer as bytes are left to the search."""
    plain = {f"k{index}": item for index, item in enumerate(value.values())}
    raw = orjson.dumps(plain)
    assert module._compact(raw, NESTING) in (dict(module._members(raw, NESTING)), None)
    assert (module._compact(raw, NESTING) is None) is (not plain or module._brackets(raw, NESTING) > NESTING)
    if names:
        assert module._compact(orjson.dumps({**plain, names: 1}), NESTING) is None


@given(value=OBJECTS, seed=st.integers(0, 2**32), cut=st.integers(0, 400))
@settings(max_examples=120)
def test_both_ways_refuse_the_same_cuts(value: dict[str, Any], seed: int, cut: int) -> None:
    """A body cut anywhere is refused by both; one that is whole by neither."""
    raw = render(value, random.Random(seed)).encode()
    short = raw[: min(cut, len(raw) - 1)]
    for read in (whole, skipped):
        with pytest.raises(WeirError):
            read(short)
        read(raw)


@given(st.binary(max_size=60).map(lambda noise: b'{"a":' + noise + b"}"))
@settings(max_examples=120)
def test_noise_is_refused_and_never_raises_anything_else(raw: bytes) -> None:
    """What orjson takes, both take; what it refuses, reading in whole refuses."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        refusal(raw)
        try:
            skipped(raw)
        except WeirError as error:
            assert error.status == 400
        return
    assert same(whole(raw).fields, value)
    assert same(skipped(raw).fields, value)


def test_many_quotes_and_backslashes_cost_no_more_than_their_number() -> None:
    """A megabyte of escaped quotes is skipped in one pass: ten times the text is about ten times the steps."""
    import sys

    def steps(size: int) -> int:
        raw = b'{"a":"' + b'\\\\\\"' * size + b'","model":"m"}'
        count = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            assert skipped(raw).get("model") == "m"
        finally:
            sys.settrace(None)
        return count

    assert steps(2000) < 12 * steps(200)


def test_a_body_never_shows_its_content() -> None:
    """Neither in a log of its repr."""
    assert repr(scan(b'{"secret":"canary"}')) == "<Body 19 bytes>"


@pytest.mark.parametrize("twice", [b'"n":12', b'"n":1', b'"max_tokens":5'])
def test_a_long_body_with_a_field_given_twice_is_refused(twice: bytes) -> None:
    """Whatever the length of the second one, and however the text is spaced."""
    long = b'"messages":[{"role":"user","content":"%b"}]' % (b"word " * 8_000)
    for fields in ([b'"model":"m"', long, twice], [b'"model": "m"', long, b'"user":"u"', b'"top_p":1', twice]):
        with pytest.raises(WeirError, match="given twice"):
            scan(b"{" + b",".join([twice, *fields]) + b"}")
