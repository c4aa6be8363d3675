"""`headers`: the fields after the changes, and the same on the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies import headers
from policies.headers import Changes, Config, changed
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import UPSTREAM_KEY, entry

GIVEN = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]


def test_remove() -> None:
    """Every field of the name goes, in any letter case."""
    assert changed(GIVEN, Changes(remove=("A",))) == [(b"b", b"2")]


def test_add() -> None:
    """A field that is set is there once."""
    assert changed(GIVEN, Changes(add={"A": "9"})) == [(b"b", b"2"), (b"a", b"9")]


def test_nothing() -> None:
    """No changes change nothing."""
    assert changed(GIVEN, Changes()) == GIVEN


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a:", "a\r\nb", "é", "Host", "content-length", "Transfer-Encoding", "connection", "te", "upgrade"],
)
def test_names_that_are_none(name: str) -> None:
    """No name that isn't a token, and none that says where a message ends or goes."""
    with pytest.raises(ValidationError):
        Config.model_validate({"request": {"remove": [name]}})
    with pytest.raises(ValidationError):
        Config.model_validate({"response": {"add": {name: "x"}}})


@given(st.text())
def test_values(value: str) -> None:
    """Whatever the file says, a value is one line of ASCII or an error."""
    try:
        config = Config.model_validate({"request": {"add": {"x": value}}})
    except ValidationError:
        assert not value.isascii() or not value.isprintable()
    else:
        assert all(character == "\t" or " " <= character <= "~" for character in config.request.add["x"])


async def test_on_the_wire(serve: Serve, simulator: Simulator) -> None:
    """Requests and answers are changed, unary and streamed; credentials and framing stay what they are."""
    options = {
        "request": {
            "add": {"x-team": "support", "Authorization": "Bearer stolen"},
            "remove": ["user-agent", "x-debug"],
        },
        "response": {"add": {"x-served-by": "weir"}, "remove": ["openai-version"]},
    }
    async with serve(policies=[entry("headers", **options)], registry={"headers": headers}) as plane:
        for stream in (False, True):
            answer = await plane.chat("user-agent: sdk/1", "x-debug: 1", "x-other: 2", stream=stream)
            assert answer.status == 200
            assert answer.header(b"x-served-by") == b"weir"
            assert answer.header(b"openai-version") is None
            sent = {name.lower(): value for name, value in simulator.requests[-1].headers}
            assert (sent[b"x-team"], sent[b"x-other"]) == (b"support", b"2")
            assert not {b"user-agent", b"x-debug"} & set(sent)
            assert sent[b"authorization"] == f"Bearer {UPSTREAM_KEY}".encode()


async def test_order(serve: Serve, simulator: Simulator) -> None:
    """Two entries are two layers: the inner one has the last word on the way up, the outer one on the way down."""
    first = entry("headers", 1, name="outer", request={"add": {"x-a": "1"}}, response={"add": {"x-b": "1"}})
    second = entry("headers", 2, name="inner", request={"add": {"x-a": "2"}}, response={"add": {"x-b": "2"}})
    async with serve(policies=[first, second], registry={"headers": headers}) as plane:
        answer = await plane.chat()
    assert answer.header(b"x-b") == b"1"
    assert dict(simulator.requests[-1].headers)[b"x-a"] == b"2"
