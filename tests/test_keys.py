"""Virtual keys in `keys.json`."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from proxy.keys import KeyFileError, KeyStore, digest


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
