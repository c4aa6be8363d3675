"""The contract of blobs, for every backend."""

from __future__ import annotations

import asyncio

import pytest

from proxy.state.protocol import Store
from tests.state.asking import eventually
from tests.state.backends import Backend


@pytest.fixture
async def store(backend: Backend) -> Store:
    """One worker's Store."""
    return await backend.connect()


async def test_a_value_is_kept_for_all(backend: Backend) -> None:
    """Any bytes, under any text."""
    one, two = await backend.connect(), await backend.connect()
    for key, value in (("a", b"\x00\xff\r\n"), ("ä {b}\n", b""), ("", b"x" * 1000)):
        assert await two.get(key) is None
        await one.put(key, value, 60)
        assert await two.get(key) == value


async def test_the_same_key_replaces(store: Store) -> None:
    """The value, its time and its tags."""
    await store.put("a", b"1", 60, ["old"])
    await store.put("a", b"2", 60, ["new"])
    assert await store.get("a") == b"2"
    assert await store.delete_tagged("old") == 0
    assert await store.delete_tagged("new") == 1
    assert await store.get("a") is None


async def test_a_value_ends(store: Store) -> None:
    """After its time it is gone, from everywhere, and counts no more."""
    await store.put("a", b"1", 0.05, ["t"])
    await store.put("b", b"2", 60, ["t"])

    async def gone() -> bool:
        return await store.get("a") is None

    await eventually(gone)
    assert await store.keys("") == ["b"]
    assert await store.delete(["a"]) == 0
    assert await store.delete_tagged("t") == 1


async def test_a_value_that_ended_leaves_no_tag(store: Store) -> None:
    """One that is put anew under the same key has the tags it was put with, and no others."""
    await store.put("a", b"1", 0.05, ["old"])

    async def gone() -> bool:
        return await store.get("a") is None

    await eventually(gone)
    await store.put("a", b"2", 60)
    assert await store.delete_tagged("old") == 0
    assert await store.get("a") == b"2"


async def test_a_time_that_is_over_at_once(store: Store) -> None:
    """It replaces, and isn't there."""
    await store.put("a", b"1", 60)
    await store.put("a", b"2", 0)
    assert await store.get("a") is None
    assert await store.keys("") == []


async def test_delete_says_how_many_there_were(store: Store) -> None:
    """Those that weren't there don't count."""
    await store.put("a", b"1", 60)
    await store.put("b", b"2", 60)
    assert await store.delete(["a", "x", "b", "y"]) == 2
    assert await store.delete(["a", "b"]) == 0
    assert await store.delete([]) == 0
    assert await store.get("a") is None


async def test_delete_by_tag(store: Store) -> None:
    """All that have it, whatever else they have."""
    await store.put("a", b"1", 60, ["x", "y"])
    await store.put("b", b"2", 60, ["y", "z"])
    await store.put("c", b"3", 60)
    assert await store.delete_tagged("nothing") == 0
    assert await store.delete_tagged("y") == 2
    assert await store.delete_tagged("x") == 0
    assert await store.keys("") == ["c"]


async def test_keys_that_begin_so(store: Store) -> None:
    """In order, and no more than asked for."""
    for key in ("b2", "a", "b1", "c", "b10", "B", "bä"):
        await store.put(key, b"", 60)
    assert await store.keys("b") == ["b1", "b10", "b2", "bä"]
    assert await store.keys("b", 2) == ["b1", "b10"]
    assert await store.keys("x") == []
    assert len(await store.keys("")) == 7


async def test_many_keys(store: Store) -> None:
    """The list is whole."""
    await asyncio.gather(*[store.put(f"k{n:04d}", b"", 60) for n in range(600)])
    assert await store.keys("k", 550) == [f"k{n:04d}" for n in range(550)]


async def test_four_mebibytes_and_no_more(store: Store) -> None:
    """What is larger is a caller's mistake."""
    value = bytes(4 * 2**20)
    await store.put("a", value, 60)
    assert await store.get("a") == value
    with pytest.raises(ValueError):
        await store.put("b", value + b"x", 60)
    assert await store.keys("") == ["a"]
