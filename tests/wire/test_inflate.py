"""Compressed bodies, unpacked as they come."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest

from proxy.wire.inflate import Inflater

TEXT = bytes(range(256)) * 40


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_every_byte_comes_in_whatever_pieces(pack: Callable[[bytes], bytes]) -> None:
    """It is whole with its last byte, not before."""
    packed, inflater, out = pack(TEXT), Inflater(), b""
    for at in range(len(packed)):
        assert not inflater.whole
        out += inflater.feed(packed[at : at + 1])
    assert inflater.whole and out == TEXT


def test_damage_and_bombs_are_refused() -> None:
    """In words that can be told."""
    with pytest.raises(ValueError, match="damaged"):
        Inflater().feed(b"not packed")
    with pytest.raises(ValueError, match="too much"):
        Inflater().feed(gzip.compress(bytes(64 * 2**20)))
