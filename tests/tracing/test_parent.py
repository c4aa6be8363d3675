"""`traceparent`, by the W3C's own rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tracing.parent import Parent, drawn, parent_in, passed_on, span_of, trace_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def said(value: str) -> Parent | None:
    return parent_in([(b"traceparent", value.encode())])


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_valid(value: str, sampled: bool) -> None:
    """Trace, span and the flag are read; a later version may say more."""
    assert said(value) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        "",
    ],
)
def test_invalid(value: str) -> None:
    """What isn't a parent is none: the trace begins here."""
    assert said(value) is None


def test_two_parents_are_none() -> None:
    """A request that names two has none."""
    assert parent_in([(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())] * 2) is None


def test_passed_on() -> None:
    """Our span takes the parent's place; a state goes on with its own trace only."""
    given = [(b"traceparent", b"x"), (b"tracestate", b"v=1"), (b"a", b"b")]
    ours = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert passed_on(given, TRACE, SPAN, True, True) == [(b"tracestate", b"v=1"), (b"a", b"b"), ours]
    assert passed_on(given, TRACE, SPAN, True, False) == [(b"a", b"b"), ours]


@given(st.text("0123456789abcdef", min_size=12, max_size=24))
def test_ids_are_valid_and_lasting(exchange: str) -> None:
    """The same exchange has the same ids, other ones for its attempts, and a share of all is always the same one."""
    trace, spans = trace_of(exchange), [span_of(exchange, number) for number in range(4)]
    assert said(f"00-{trace}-{spans[0]}-01") == Parent(trace, spans[0], True)
    assert trace == trace_of(exchange) and len(set(spans)) == 4
    assert drawn(trace, 1.0) and not drawn(trace, 0.0)
    assert not drawn(trace, 0.2) or drawn(trace, 0.5)


def test_a_share_is_that_share() -> None:
    """A tenth of ten thousand exchanges is about a thousand."""
    assert 850 < sum(drawn(trace_of(f"{number:024x}"), 0.1) for number in range(10_000)) < 1150
