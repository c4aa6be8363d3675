"""Numbers and colours as people read them."""

from __future__ import annotations

import io

import pytest

from proxy.cli.output import coloured, dollars, paint, span


@pytest.mark.parametrize(
    ("nanodollars", "estimated", "text"),
    [
        (None, False, "unpriced"),
        (0, False, "$0.00"),
        (1, False, "$0.000000001"),
        (218_000, False, "$0.000218"),
        (1_500_000_000, False, "$1.50"),
        (1_234_567_000_000_001, False, "$1234567.000000001"),
        (-2_000_000_000, False, "-$2.00"),
        (218_000, True, "~$0.000218"),
    ],
)
def test_dollars_are_exact(nanodollars: int | None, estimated: bool, text: str) -> None:
    """An amount keeps every digit that it has and shows none that it hasn't."""
    assert dollars(nanodollars, estimated=estimated) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (None, "-"),
        (0, "0 ns"),
        (999, "999 ns"),
        (1_500, "1.50 µs"),
        (42_000_000, "42.0 ms"),
        (61_000_000_000, "61.0 s"),
    ],
)
def test_spans_have_three_digits(nanoseconds: int | None, text: str) -> None:
    """A duration shows its size at one glance."""
    assert span(nanoseconds) == text


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_colours_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours need a terminal, and NO_COLOR or a dumb terminal forbids them."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(Terminal())
    assert not coloured(io.StringIO())
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"
