"""Multipart bodies, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.multipart import Multipart

TYPE = b"multipart/form-data; boundary=XX"
FILE = b"line\r\n--X not it\r\n--XY\r\n" + bytes(range(256))
BODY = (
    b'preamble\r\n--XX\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="empty"\r\n\r\n\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\nContent-Type: x/y\r\n\r\n'
    + FILE
    + b"\r\n--XX--\r\nepilogue"
)


@given(st.lists(st.integers(0, len(BODY)), max_size=12))
def test_the_same_result_at_every_split(cuts: list[int]) -> None:
    """Fields and files don't depend on how the body arrives."""
    taken: list[bytes] = []
    multipart = Multipart(TYPE, taken.append)
    edges = [0, *sorted(cuts), len(BODY)]
    for start, end in pairwise(edges):
        multipart.feed(BODY[start:end])
    assert multipart.complete
    assert multipart.fields == {"purpose": b"batch", "empty": b""}
    assert (multipart.filename, b"".join(taken)) == ("a.bin", FILE)


def test_byte_by_byte() -> None:
    """The hardest split."""
    taken: list[bytes] = []
    multipart = Multipart(TYPE, taken.append)
    for at in range(len(BODY)):
        multipart.feed(BODY[at : at + 1])
    assert (multipart.complete, b"".join(taken)) == (True, FILE)


def test_a_body_without_its_end_is_not_complete() -> None:
    """A cut body is told from a whole one."""
    multipart = Multipart(TYPE, bytes)
    multipart.feed(BODY[:-20])
    assert not multipart.complete


@pytest.mark.parametrize("kind", [b"", b"application/json", b"multipart/form-data"])
def test_what_is_not_multipart(kind: bytes) -> None:
    """Another type, or no boundary, is a ValueError."""
    with pytest.raises(ValueError, match="not multipart"):
        Multipart(kind, bytes)
