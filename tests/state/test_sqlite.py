"""The state file: what a restart finds, and what happens when it can't be written or read."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from proxy.state.blobs import MemoryShelf
from proxy.state.client import SocketStore
from proxy.state.core import Core
from proxy.state.process import OwnedError, serving
from proxy.state.protocol import Granted, Hold, Level, Part, Rate, Scope, StateLost
from proxy.state.sqlite import SqliteShelf, StateFile
from tests.patience import PATIENCE_S
from tests.state.asking import granted, hold, numbers, scope

S = 10**9
URL = "sqlite:///state.db"


def quiet(level: str, event: str, **fields: object) -> None:
    """Nobody reads it."""


def test_all_that_was_decided_is_found_again(tmp_path: Path) -> None:
    """Holds, windows, closed ids, rates, duties and the feed go on where they were."""
    file, core = StateFile(tmp_path / "state.db"), Core()
    rolling = Scope("usd:r", 100, span_ns=60 * S)
    core.book.reserve(Hold("open", "h/0/b", 7, (Part(rolling, 5), Part(scope("usd:x"), 6))), S)
    core.book.adjust("open", (3, 4), (2, 2), 9, (), S)
    core.book.reserve(Hold("shut", "h/0/b", 7, (Part(rolling, 5),)), 2 * S)
    core.book.close("shut", (4,), (), 2 * S)
    core.rates.take([Rate("rpm", 2, 60 * S)], S)
    core.duties.claim("close", "me", 60, S)
    position = core.topics.publish("keys", b"changed", S)
    file.write(core)
    assert not core.changes
    file.close()

    file, again = StateFile(tmp_path / "state.db"), Core()
    file.load(again)
    assert again.book.standing("h/", None, S) == core.book.standing("h/", None, S)
    assert again.book.levels([rolling, scope("usd:x")], 3 * S) == (Level(6, 3), Level(2, 4))
    assert again.book.levels([rolling], 62 * S) == (Level(4, 3),), "slices of a rolling window are kept"
    assert not again.book.close("shut", (4,), (), 3 * S)
    assert again.rates.whole_at == core.rates.whole_at
    assert not again.duties.claim("close", "other", 60, 2 * S)
    assert list(again.topics.after("keys", "")) == [(position, b"changed")]
    assert again.topics.publish("keys", b"more", S) > position
    file.close()


def test_what_goes_is_gone_from_the_file(tmp_path: Path) -> None:
    """Closed holds, forgotten ids and counters, given-up duties and whole rates leave no row behind."""
    file, core = StateFile(tmp_path / "state.db"), Core()
    core.book.reserve(hold((scope("usd:x"), 6), id="a"), 0)
    core.rates.take([Rate("rpm", 2, 60 * S)], 0)
    core.duties.claim("close", "me", 60, 0)
    file.write(core)
    core.book.close("a", (0,), (), 0)
    core.duties.resign("close", "me")
    core.rates.forget(61 * S)
    core.book.forget(0)
    core.book.forget_closed(3601 * S)
    file.write(core)
    file.checkpoint()
    with sqlite3.connect(tmp_path / "state.db") as database:
        for table in ("holds", "counters", "closed", "rates", "claims"):
            assert database.execute(f"select count(*) from {table}").fetchone() == (0,), table
    file.close()


def test_a_checkpoint_empties_the_log_into_the_file(tmp_path: Path) -> None:
    """Made from outside the writing connection, it carries over what was written."""
    file, core = StateFile(tmp_path / "state.db"), Core()
    core.book.reserve(hold((scope("usd:x"), 6), id="a"), 0)
    file.write(core)
    assert b"host/1/a" not in (tmp_path / "state.db").read_bytes()
    file.checkpoint()
    assert b"host/1/a" in (tmp_path / "state.db").read_bytes()
    file.close()


def test_writing_waits_for_nobody_who_has_the_file(tmp_path: Path) -> None:
    """While another has the database locked, all is written; a start after a kill then finds it, even cut short."""
    file, core = StateFile(tmp_path / "state.db"), Core()
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("begin immediate")
        for number in range(3):
            core.book.reserve(hold((scope("usd:x"), 6), id=f"{number}"), 0)
            file.write(core)
        core.book.close("0", (5,), (), 0)
        file.write(core)
        assert other.execute("select count(*) from holds").fetchone() == (0,)
    (tail,) = tmp_path.glob("state.db-tail-*")
    with tail.open("ab") as torn:
        torn.write(b"\x40\0\0\0torn")

    again = Core()  # as if the first had been killed
    found = StateFile(tmp_path / "state.db")
    found.load(again)
    assert again.book.levels([scope("usd:x")], 0) == (Level(5, 12),)
    assert not again.book.close("0", (5,), (), 0)
    found.close()
    file.close()


def test_what_could_not_be_carried_over_is_carried_over_later(tmp_path: Path) -> None:
    """A database that can't be written keeps its tail; what came meanwhile counts, not what it had before."""
    file, core = StateFile(tmp_path / "state.db"), Core()
    core.book.reserve(hold((scope("usd:x"), 6), id="a"), 0)
    file.write(core)
    with sqlite3.connect(tmp_path / "state.db") as other:
        file._database.execute("pragma busy_timeout=0")
        other.execute("begin immediate")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            file.checkpoint()
        core.book.close("a", (4,), (), 0)
        file.write(core)
    file.checkpoint()
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert database.execute("select count(*) from holds").fetchone() == (0,)
        assert database.execute("select id from closed").fetchall() == [("a",)]
    assert len(list(tmp_path.glob("state.db-tail-*"))) == 1, "what is in the database has left the tail"
    file.close()


def test_a_file_that_can_t_be_read_isn_t_replaced(tmp_path: Path) -> None:
    """Budgets must not begin again at zero because a file is broken, or of a later version."""
    (tmp_path / "broken.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        StateFile(tmp_path / "broken.db")
    assert (tmp_path / "broken.db").read_bytes().startswith(b"not a database")
    StateFile(tmp_path / "later.db").close()
    with sqlite3.connect(tmp_path / "later.db") as database:
        database.execute("pragma user_version=99")
    with pytest.raises(sqlite3.DatabaseError, match="version 99"):
        StateFile(tmp_path / "later.db")


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_the_oldest_of_a_cache_make_room(kind: str, tmp_path: Path) -> None:
    """What is too much goes, oldest first; what was put again is new. Jobs and the like never make room for it."""
    sqlite = kind == "sqlite"
    shelf = SqliteShelf(tmp_path / "blobs", most_bytes=25) if sqlite else MemoryShelf(most_bytes=25)
    for key in ("jobs/1", "cache/a", "cache/b", "cachet", "cache/a", "semantic/c", "jobs/2"):
        shelf.put(key, b"0123456789", 100, ["all"])
    shelf.forget(1)
    assert shelf.keys("", 10, 1) == ["cache/a", "cachet", "jobs/1", "jobs/2", "semantic/c"]
    assert shelf.delete_tagged("all", 1) == 5
    for key in ("cache/d", "cache/e"):
        shelf.put(key, b"0123456789", 100, [])
    assert shelf.keys("", 10, 1) == ["cache/d", "cache/e"]
    if isinstance(shelf, SqliteShelf):
        shelf.close()


async def test_one_process_owns_a_file(tmp_path: Path) -> None:
    """A second one doesn't start, and doesn't disturb the first."""
    async with serving(URL, tmp_path, tmp_path / "s", quiet):
        store = SocketStore(tmp_path / "s", PATIENCE_S)
        with pytest.raises(OwnedError):
            async with serving(URL, tmp_path, tmp_path / "other", quiet):
                pass
        assert await store.ping() > 0
        await store.aclose()


async def test_a_reply_leaves_only_once_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full every answer is lost; afterwards all goes on, and no lost reservation stands."""
    logged: list[str] = []
    full = False
    write = StateFile.write

    def written(file: StateFile, core: Core) -> None:
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        write(file, core)

    monkeypatch.setattr(StateFile, "write", written)

    def log(level: str, event: str, **fields: Any) -> None:
        logged.append(event)

    async with serving(URL, tmp_path, tmp_path / "s", log):
        store = SocketStore(tmp_path / "s", PATIENCE_S)
        id = await granted(store, (scope(), 10))
        full = True
        with pytest.raises(StateLost):
            await store.reserve(hold((scope(), 20)))
        with pytest.raises(StateLost):
            await store.close(id, [4])
        assert logged == ["state_not_written"], "it is said once"
        full = False
        assert await numbers(store, scope()) == [(4, 0)]
        assert isinstance(await store.reserve(hold((scope(), 96))), Granted)
        await store.aclose()
    async with serving(URL, tmp_path, tmp_path / "s", quiet):
        store = SocketStore(tmp_path / "s", PATIENCE_S)
        assert await numbers(store, scope()) == [(4, 96)]
        await store.aclose()


async def test_a_state_in_memory_is_served_too(tmp_path: Path) -> None:
    """`memory:` shares between workers, and is gone with its process."""
    async with serving("memory:", tmp_path, tmp_path / "s", quiet):
        first, second = SocketStore(tmp_path / "s", PATIENCE_S), SocketStore(tmp_path / "s", PATIENCE_S)
        await granted(first, (scope(), 60))
        assert await numbers(second, scope()) == [(0, 60)]
        await asyncio.gather(first.aclose(), second.aclose())
    assert [path.name for path in tmp_path.iterdir()] == ["s.lock"]
