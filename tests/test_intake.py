"""What is checked between a request's bytes and the chain: wishes, media type, compression, the model."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.body import NESTING, scan
from proxy.config import Configuration, load
from proxy.config.policies import Honour
from proxy.errors import WeirError
from proxy.intake import check_media_type, model_of, understood, wishes
from proxy.wire.call import Call, InFlight, Intake
from proxy.wire.head import Head
from proxy.wire.headers import Headers

LIMIT = 1000
BODY = b'{"model":"m"}'


class Connection:
    """As much of a connection as a call needs to count bytes."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.in_flight = InFlight(room)


def call(body: bytes, coding: bytes | None = None, room: int = 1 << 20) -> Call:
    headers = [] if coding is None else [(b"content-encoding", coding)]
    made = Call(Connection(room), Head("POST", b"/", "1.1", headers), Intake(True, LIMIT))  # type: ignore[arg-type]
    made.body = body
    return made


def refusal(body: bytes, coding: bytes | None = None, room: int = 1 << 20) -> WeirError:
    with pytest.raises(WeirError) as raised:
        understood(call(body, coding, room), LIMIT, NESTING)
    return raised.value


# --- compression


@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        (None, BODY),
        (b"identity", BODY),
        (b" Identity ", BODY),
        (b"gzip", gzip.compress(BODY)),
        (b"GZIP", gzip.compress(BODY)),
        (b"x-gzip", gzip.compress(BODY)),
        (b"deflate", zlib.compress(BODY)),
    ],
)
def test_a_body_is_read_in_the_codings_that_are_understood(coding: bytes | None, packed: bytes) -> None:
    """Plain, gzip and deflate, in any case."""
    assert understood(call(packed, coding), LIMIT, NESTING).raw == BODY


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"identity, gzip", b"chunked", b"", b"x" * 500])
def test_another_coding_is_a_415(coding: bytes) -> None:
    """It says what is understood, and shows no more than the beginning of what was sent."""
    error = refusal(BODY, coding)
    assert (error.status, error.code) == (415, "unsupported_encoding")
    assert dict(error.headers)[b"accept-encoding"] == b"gzip, deflate"
    assert len(error.message) < 200


@given(st.integers(0, len(gzip.compress(BODY)) - 1))
def test_compression_cut_anywhere_is_a_400(at: int) -> None:
    """At no place does a part pass for the whole."""
    error = refusal(gzip.compress(BODY)[:at], b"gzip")
    assert error.status == 400


@pytest.mark.parametrize("rest", [b"x", b"\x00", gzip.compress(BODY)])
def test_what_follows_the_compressed_body_is_a_400(rest: bytes) -> None:
    """Also a second member: one reader would take it, another not."""
    assert refusal(gzip.compress(BODY) + rest, b"gzip").status == 400


def test_unpacking_stops_at_the_limit() -> None:
    """Exactly the limit passes, one byte more is 413, and a bomb isn't unpacked beyond it."""
    fits = b'{"a":"' + b"x" * (LIMIT - 8) + b'"}'
    assert len(fits) == LIMIT
    assert understood(call(gzip.compress(fits), b"gzip"), LIMIT, NESTING).raw == fits
    assert refusal(gzip.compress(fits + b" "), b"gzip").status == 413
    assert refusal(gzip.compress(b" " * 50_000_000), b"gzip").status == 413


def test_what_was_unpacked_counts_as_held() -> None:
    """Else small bodies could unpack to more memory than the worker may use; over its bound it is 503."""
    fits = b'{"a":"' + b"x" * 800 + b'"}'
    made = call(gzip.compress(fits), b"gzip")
    understood(made, LIMIT, NESTING)
    assert made.held == len(fits) - len(gzip.compress(fits))
    error = refusal(gzip.compress(fits), b"gzip", room=100)
    assert (error.status, dict(error.headers)[b"retry-after"]) == (503, b"1")


@pytest.mark.parametrize("body", [b"", b" "])
@pytest.mark.parametrize("coding", [None, b"identity"])
def test_no_body_is_a_400(body: bytes, coding: bytes | None) -> None:
    """An endpoint that takes JSON says so."""
    assert (refusal(body, coding).status, refusal(body, coding).code) == (400, "invalid_json")


# --- media type


def head(kind: bytes | None, has_body: bool = True) -> Head:
    made = Head("POST", b"/", "1.1", [] if kind is None else [(b"content-type", kind)])
    made.content_length = 5 if has_body else 0
    return made


@pytest.mark.parametrize(
    "kind",
    [None, b"application/json", b"application/json;charset=utf-8", b" APPLICATION/JSON ", b"application/ld+json"],
)
def test_json_by_any_of_its_names_passes(kind: bytes | None) -> None:
    """Also undeclared, as some clients send it."""
    check_media_type(head(kind))


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"application/jsonx", b"", b"json", b"multipart/form-data; boundary=x"]
)
def test_another_media_type_is_a_415(kind: bytes) -> None:
    """Where there is a body."""
    with pytest.raises(WeirError) as raised:
        check_media_type(head(kind))
    assert raised.value.status == 415
    check_media_type(head(kind, has_body=False))


def test_the_message_shows_little_of_the_media_type() -> None:
    """It comes from the client."""
    with pytest.raises(WeirError) as raised:
        check_media_type(head(b"x" * 5000))
    assert len(raised.value.message) < 250


# --- the model


@pytest.mark.parametrize("raw", [b'{"model":5}', b'{"model":["m"]}', b'{"model":{"a":1}}', b'{"model":true}'])
def test_a_model_is_a_string(raw: bytes) -> None:
    """Else 400, naming it."""
    with pytest.raises(WeirError) as raised:
        model_of(scan(raw))
    assert (raised.value.status, raised.value.param) == (400, "model")


def test_no_model_is_none() -> None:
    """Absent and null alike."""
    assert model_of(scan(b"{}")) is None
    assert model_of(scan(b'{"model":null}')) is None
    assert model_of(scan(b'{"model":""}')) == ""


# --- wishes


@pytest.fixture(scope="module")
def honouring() -> Configuration:
    """A configuration that grants all wishes."""
    return configuration({"tags": True, "bypass": ["cache", "route"], "deadline": True})


def configuration(honour: dict[str, Any]) -> Configuration:
    return load(None, {}).model_copy(update={"honour": Honour.model_validate(honour)})


def field(name: bytes, value: bytes) -> Headers:
    return [(b"host", b"x"), (b"x-weir-" + name, value)]


def test_tags_are_read(honouring: Configuration) -> None:
    """Pairs, white space around them, several headers' worth; the key's own win."""
    wished = wishes(field(b"tags", b" a = b ,c=d e,f="), honouring, {"c": "own", "k": "v"})
    assert wished.tags == {"a": "b", "c": "own", "f": "", "k": "v"}


@pytest.mark.parametrize(
    "text",
    [
        b"a",
        b"=b",
        b"a b=c",
        b"a=b=c;d",
        b"a" * 65 + b"=b",
        b"a=" + b"b" * 257,
        b",".join(b"a%d=b" % n for n in range(33)),
    ],
)
def test_bad_tags_are_a_400(honouring: Configuration, text: bytes) -> None:
    """Naming the header."""
    with pytest.raises(WeirError) as raised:
        wishes(field(b"tags", text), honouring, {})
    assert (raised.value.status, raised.value.param) == (400, "x-weir-tags")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"30", 30), (b"30s", 30), (b"1.5 m", 90), (b"24h", 86400), (b"250ms", 0.25), (b" 1s ", 1), (b"0", 0)],
)
def test_deadlines_are_read(honouring: Configuration, text: bytes, seconds: float) -> None:
    """In the units of the deployment file."""
    assert wishes(field(b"deadline", text), honouring, {}).deadline_s == seconds


@pytest.mark.parametrize("text", [b"", b"-1", b"1d", b"inf", b"nan", b"1e9", b"9" * 10, b"1 s s", b"\xb2"])
def test_bad_deadlines_are_a_400(honouring: Configuration, text: bytes) -> None:
    """Naming the header."""
    with pytest.raises(WeirError) as raised:
        wishes(field(b"deadline", text), honouring, {})
    assert (raised.value.status, raised.value.param) == (400, "x-weir-deadline")


def test_bypass_is_granted_for_what_is_listed(honouring: Configuration) -> None:
    """And for nothing else."""
    assert wishes(field(b"bypass", b"cache, budgets,route"), honouring, {}).bypass == {"cache", "route"}


def test_wishes_that_are_not_honoured_are_ignored() -> None:
    """Even bad ones: such headers are as unknown as any."""
    silent = configuration({"tags": False, "bypass": [], "deadline": False})
    for name in (b"tags", b"bypass", b"deadline", b"tenant", b"cost"):
        wished = wishes(field(name, b"\xff,,,"), silent, {"own": "tag"})
        assert (wished.tags, wished.bypass, wished.deadline_s) == ({"own": "tag"}, frozenset(), None)


@given(name=st.sampled_from([b"tags", b"deadline", b"bypass"]), value=st.binary(max_size=40))
def test_any_wish_is_read_or_refused(name: bytes, value: bytes) -> None:
    """Never another error than 400."""
    granting = configuration({"tags": True, "bypass": ["cache"], "deadline": True})
    try:
        wishes(field(name, value), granting, {})
    except WeirError as error:
        assert error.status == 400
