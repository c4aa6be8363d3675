"""Virtual keys in `keys.json`."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients.keys import KeyFileError, KeyRecord, KeyStore, digest, joined


def test_a_key_is_shown_once_and_stored_hashed(tmp_path: Path) -> None:
    """The file holds the hash, never the key, and only its owner may read it."""
    store = KeyStore(tmp_path)
    secret, record = store.create(org="acme", team="search", tags={"app": "bot"}, models=["gpt-*"], now_s=100.0)
    text = store.path.read_text()
    assert secret.startswith("wk-")
    assert len(secret) >= 3 + 43
    assert secret not in text
    assert record.sha256 == digest(secret)
    assert record.sha256 in text
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_what_was_made_is_listed(tmp_path: Path) -> None:
    """A second store over the same directory reads back all fields, in the order of making."""
    first = KeyStore(tmp_path).create(org="acme", expires=200.0, now_s=100.0)[1]
    second = KeyStore(tmp_path).create(team="search", tags={"a": "b"}, models=[], now_s=101.0)[1]
    assert KeyStore(tmp_path).list() == [first, second]


@pytest.mark.parametrize("by", ["id", "secret"])
def test_a_revoked_key_stays_with_its_time(tmp_path: Path, by: str) -> None:
    """Revoking by id or by the key itself marks it; doing so twice keeps the first time."""
    store = KeyStore(tmp_path)
    secret, record = store.create(now_s=1.0)
    store.create(now_s=2.0)
    name = secret if by == "secret" else record.id
    assert store.revoke(name, now_s=5.0).revoked == 5.0
    assert store.revoke(name, now_s=9.0).revoked == 5.0
    assert [key.revoked for key in store.list()] == [5.0, None]


def test_revoking_an_unknown_key_raises(tmp_path: Path) -> None:
    """There is nothing to revoke, and the file stays as it was."""
    store = KeyStore(tmp_path)
    store.create()
    before = store.path.read_bytes()
    with pytest.raises(KeyError):
        store.revoke("key_nope")
    assert store.path.read_bytes() == before


def test_active_until_expiry_or_revocation(tmp_path: Path) -> None:
    """The expiry is exclusive: at that second the key is already closed."""
    store = KeyStore(tmp_path)
    _, record = store.create(expires=10.0, now_s=1.0)
    assert record.active(9.9)
    assert not record.active(10.0)
    assert not store.revoke(record.id, now_s=2.0).active(3.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"keys": [{"id": 1}]}', '{"keys": 5}'])
def test_a_broken_file_is_an_error_not_an_empty_list(tmp_path: Path, text: str) -> None:
    """Nobody may mistake a damaged file for "no keys": reading raises and making a key doesn't overwrite it."""
    store = KeyStore(tmp_path)
    store.path.write_text(text)
    with pytest.raises(KeyFileError):
        store.list()
    with pytest.raises(KeyFileError):
        store.create()
    assert store.path.read_text() == text


def make_keys(home: Path) -> None:
    for _ in range(5):
        KeyStore(home).create()


def test_concurrent_writers_lose_no_key(tmp_path: Path) -> None:
    """Four processes make five keys each at once; all twenty are there."""
    processes = [multiprocessing.get_context("fork").Process(target=make_keys, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len({key.id for key in KeyStore(tmp_path).list()}) == 20


def test_rotation(tmp_path: Path) -> None:
    """Two secrets under one id until the overlap is over; rotating again doesn't lengthen the life of the first."""
    store = KeyStore(tmp_path)
    first, record = store.create(team="search", tags={"a": "b"}, models=["m"], expires=900.0, now_s=1.0)
    second, rotated = store.rotate(record.id, 60.0, now_s=100.0)
    assert (rotated.id, rotated.team, rotated.tags, rotated.models, rotated.expires) == (
        record.id, "search", {"a": "b"}, ["m"], 900.0,
    )  # fmt: skip
    by_hash = {key.sha256: key for key in store.list()}
    assert [by_hash[digest(secret)].active(159.0) for secret in (first, second)] == [True, True]
    assert [by_hash[digest(secret)].active(160.0) for secret in (first, second)] == [False, True]
    store.rotate(second, 5000.0, now_s=120.0)
    assert [key.expires for key in store.list()] == [160.0, 900.0, 900.0]
    store.revoke(first, now_s=130.0)
    assert [key.revoked for key in store.list()] == [130.0, None, None]
    store.revoke(record.id, now_s=140.0)
    assert [key.revoked for key in store.list()] == [130.0, 140.0, 140.0]
    with pytest.raises(KeyError):
        store.rotate(record.id, 1.0, now_s=150.0)


def test_admin_keys_and_names(tmp_path: Path) -> None:
    """A key with a role says so by its beginning; an id is given once."""
    store = KeyStore(tmp_path)
    secret, record = store.create(role="finance", id="alice")
    assert secret.startswith("wa-")
    assert (record.id, record.role) == ("alice", "finance")
    with pytest.raises(ValueError, match="taken"):
        store.create(id="alice")


def record(number: int, expires: float | None, revoked: float | None) -> KeyRecord:
    return KeyRecord(f"k{number}", str(number), expires=expires, revoked=revoked)


TIMES = st.one_of(st.none(), st.integers(1, 3).map(float))
TABLES = st.lists(st.builds(record, st.integers(1, 3), TIMES, TIMES), max_size=4, unique_by=lambda key: key.sha256)


@given(a=TABLES, b=TABLES, c=TABLES)
def test_tables_join_in_any_order(a: list[KeyRecord], b: list[KeyRecord], c: list[KeyRecord]) -> None:
    """Commutative, associative, idempotent: hosts agree however messages come; what is closed stays closed."""

    def of(*tables: list[KeyRecord]) -> dict[str, KeyRecord]:
        found: list[KeyRecord] = []
        for table in tables:
            found = joined(found, table)
        return {key.sha256: key for key in found}

    assert of(a, b, c) == of(c, b, a) == of(a, joined(b, c)) == of(a, b, c, b, a)
    for key in [*a, *b, *c]:
        assert key.revoked is None or of(a, b, c)[key.sha256].revoked is not None
