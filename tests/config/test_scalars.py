"""Durations, sizes, percentages, addresses: what is read, and what is answered to the rest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from proxy.config.scalars import (
    Address,
    address,
    address_or_off,
    fraction,
    listed,
    percent,
    seconds,
    size_in_bytes,
    truth,
)


def refusal(read: Any, value: object) -> tuple[str, str]:
    with pytest.raises(PydanticCustomError) as caught:
        read(value)
    details: Any = caught.value.context
    return details["message"], details["hint"]


@pytest.mark.parametrize(
    ("written", "value"),
    [("500ms", 0.5), ("10s", 10), ("5m", 300), ("24h", 86400), ("30d", 2592000), ("1h30m", 5400), ("1.5 h", 5400),
     ("0.1s", 0.1), (10, 10), (0.25, 0.25), ("10", 10), ("0", 0)],
)  # fmt: skip
def test_durations(written: object, value: float) -> None:
    """A duration with or without a unit becomes seconds, exactly."""
    assert seconds(written) == value


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("5min", "'min' is no unit of time", "write 5m"),
        ("5 minuts", "'minuts' is no unit of time", "write 5m"),
        ("30sec", "'sec' is no unit of time", "write 30s"),
        ("2 Hours", "'Hours' is no unit of time", "write 2h"),
        ("7q", "'q' is no unit of time", "ms, s, m, h or d"),
        ("-5s", "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found '-5s'", "it can't be negative"),
        (-5, "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found -5.0", "it can't be negative"),
        (True, "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found true", ""),
        ("soon", "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found 'soon'", ""),
        (float("inf"), "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found inf", ""),
        (float("nan"), "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m, found nan", ""),
    ],
)
def test_wrong_durations(written: object, message: str, hint: str) -> None:
    """A wrong duration is answered by the unit that was meant."""
    assert refusal(seconds, written) == (message, hint)


@pytest.mark.parametrize(
    ("written", "value"),
    [("32 MiB", 32 * 2**20), ("256KiB", 2**18), ("1.5 GiB", 3 * 2**29), ("5 MB", 5_000_000), ("512 B", 512),
     (8192, 8192), ("8192", 8192)],
)  # fmt: skip
def test_sizes(written: object, value: int) -> None:
    """A size with or without a unit becomes bytes."""
    assert size_in_bytes(written) == value


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("32M", "'M' is no unit of size", "write 32 MiB"),
        ("32 mib", "'mib' is no unit of size", "write 32 MiB"),
        ("32 megs", "'megs' is no unit of size", "B, KiB, MiB, GiB, KB, MB or GB"),
        ("0.3 B", "'0.3 B' is not a whole number of bytes", ""),
        ("-1 KiB", "expected a size such as 32 MiB, 256 KiB or 5 MB, found '-1 KiB'", "it can't be negative"),
        (1.5, "expected a size such as 32 MiB, 256 KiB or 5 MB, found 1.5", ""),
    ],
)
def test_wrong_sizes(written: object, message: str, hint: str) -> None:
    """A wrong size is answered by the unit that was meant."""
    assert refusal(size_in_bytes, written) == (message, hint)


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        (5, "expected a percentage such as 5% or 0.5%, found 5", 'write "5%"'),
        ("5", "expected a percentage such as 5% or 0.5%, found '5'", 'write "5%"'),
        ("five", "expected a percentage such as 5% or 0.5%, found 'five'", ""),
        ("101%", "101% is more than 100%", ""),
        (True, "expected a percentage such as 5% or 0.5%, found true", ""),
    ],
)
def test_wrong_percentages(written: object, message: str, hint: str) -> None:
    """A bare number could mean two things, so it is refused."""
    assert refusal(fraction, written) == (message, hint)


@given(st.decimals(0, 100, places=6))
def test_percentages_survive(share: Any) -> None:
    """A percentage read, written and read again is the same float."""
    value = fraction(f"{share:f}%")
    assert fraction(percent(value)) == value


@given(st.floats(0, 1))
def test_every_fraction_has_a_percentage(share: float) -> None:
    """Any share can be written as a percentage and read back exactly."""
    assert fraction(percent(share)) == share


@pytest.mark.parametrize(
    ("written", "host", "port", "loopback"),
    [
        ("127.0.0.1:8787", "127.0.0.1", 8787, True),
        ("[::1]:80", "::1", 80, True),
        ("localhost:80", "localhost", 80, True),
        (":8787", "0.0.0.0", 8787, False),
        ("0.0.0.0:0", "0.0.0.0", 0, False),
        ("[::]:80", "::", 80, False),
        ("10.0.0.5:80", "10.0.0.5", 80, False),
        ("weir.internal:80", "weir.internal", 80, False),
        (8787, "127.0.0.1", 8787, True),
    ],
)
def test_addresses(written: object, host: str, port: int, loopback: bool) -> None:
    """An address knows whether others can reach it, and reads what it prints."""
    found = address(written)
    assert isinstance(found, Address)
    assert (found.host, found.port, found.loopback) == (host, port, loopback)
    assert address(str(found)) == found


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("http://127.0.0.1:80", "expected an address such as 127.0.0.1:8787, found 'http://127.0.0.1:80'",
         "leave out the scheme and the path"),
        ("127.0.0.1", "expected an address such as 127.0.0.1:8787, found '127.0.0.1'", "write the port after a colon"),
        ("127.0.0.1:99999", "99999 is no port", "ports end at 65535"),
        ("[::zz]:80", "'::zz' is no IPv6 address", ""),
        (True, "expected an address such as 127.0.0.1:8787, found true", "write the port after a colon"),
    ],
)  # fmt: skip
def test_wrong_addresses(written: object, message: str, hint: str) -> None:
    """A wrong address is answered by what is wrong with it."""
    assert refusal(address, written) == (message, hint)


def test_no_address() -> None:
    """A listener can be left out by the word off."""
    assert address_or_off("off") is None


@pytest.mark.parametrize(
    ("written", "hint"),
    [("yes", "write true"), ("No", "write false"), ("on", "write true"), (0, "write false"), ("maybe", "")],
)
def test_other_words_for_truth(written: object, hint: str) -> None:
    """The booleans of old YAML are refused with the right word."""
    assert refusal(truth, written)[1] == hint


def test_empty_lists() -> None:
    """A list of nothing would never match, which nobody means."""
    assert refusal(listed, []) == ("an empty list never matches", "name something, or leave the key out")
