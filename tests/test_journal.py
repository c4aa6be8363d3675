"""The journal: what is written is found again, whatever a crash or a full disk leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import journal
from proxy.errors import WeirError
from proxy.journal import Ended, Follower, Journal

RECORDS = [{"event": "reserved", "at": at, "exchange": f"x{at}", "note": "é河" * at} for at in range(20)]
ENDED = Ended(
    1, "x", 0, "client", None, 200, "complete", "t", None, None, None, None, {}, "e", None, 1, 1, 7, 0, "", [], [], None
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", 3)
    yield made
    made.close()


def written(home: Path) -> list[dict[str, Any]]:
    return [record for path in journal.segments(home) for record in journal.read(path)]


def test_reads_what_was_written(log: Journal, tmp_path: Path) -> None:
    """Records come back in order; what isn't flushed isn't there yet."""
    for record in RECORDS:
        log.append(record)
    assert written(tmp_path) == []
    log.flush()
    assert written(tmp_path) == RECORDS


def test_is_private(log: Journal, tmp_path: Path) -> None:
    """Nobody else may read who asked for what."""
    (segment,) = journal.segments(tmp_path)
    assert (segment.stat().st_mode & 0o777, segment.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@given(cut=st.integers(0, 3000))
def test_torn_tail(cut: int) -> None:
    """Wherever a write was torn, the whole records before it are read, and no half one."""
    data = b"".join(journal.frame(record) for record in RECORDS)[:cut]
    ends = [end for end, _ in journal.frames(data)]
    sizes = [len(journal.frame(record)) for record in RECORDS]
    whole = [sum(sizes[: count + 1]) for count in range(len(sizes)) if sum(sizes[: count + 1]) <= len(data)]
    assert ends == whole


@given(at=st.integers(0, 2500), flip=st.integers(1, 255))
def test_damage(at: int, flip: int) -> None:
    """A damaged byte ends the reading before its record: nothing wrong is ever read."""
    data = bytearray(b"".join(journal.frame(record) for record in RECORDS))
    at %= len(data)
    data[at] ^= flip
    payloads = [payload for _, payload in journal.frames(bytes(data))]
    originals = [payload for _, payload in journal.frames(b"".join(journal.frame(record) for record in RECORDS))]
    assert payloads == originals[: len(payloads)]


def test_new_segments(tmp_path: Path) -> None:
    """A full segment is followed by the next; readers see one journal."""
    log = Journal(tmp_path / "journal", 0, segment_bytes=300)
    for record in RECORDS:
        log.append(record)
        log.flush()
    log.close()
    assert len(journal.segments(tmp_path)) > 3
    assert written(tmp_path) == RECORDS


def test_full_disk(log: Journal, tmp_path: Path) -> None:
    """What the disk doesn't take is refused with 503, kept, and written once there is room again."""
    log.append(RECORDS[0])
    log.flush()
    real, full = log._fd, os.open("/dev/full", os.O_WRONLY)
    log._fd = full
    log.append(RECORDS[1])
    with pytest.raises(WeirError) as refused:
        log.flush()
    assert (refused.value.status, refused.value.code) == (503, "journal_unavailable")
    log.append(RECORDS[2])
    log.discard_last()
    log._fd = real
    os.close(full)
    log.flush()
    assert written(tmp_path) == RECORDS[:2]


def test_half_a_write(log: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a record isn't left in the middle, also where it can't be taken back."""
    log.append(RECORDS[0])
    log.flush()
    write, truncate = os.write, os.ftruncate
    for broken in (False, True):
        log.append(RECORDS[1 + broken])
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
        if broken:
            monkeypatch.setattr(os, "ftruncate", lambda fd, size: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(WeirError):
            log.flush()
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "ftruncate", truncate)
        log.flush()
    assert written(tmp_path) == RECORDS[:3]


def test_memory_is_bounded(log: Journal) -> None:
    """A disk that stays full costs no memory without end."""
    full = os.open("/dev/full", os.O_WRONLY)
    real, log._fd = log._fd, full
    for _ in range(60_000):
        log.append(ENDED)
    assert len(log._pending) < 51_000
    log._pending.clear()
    log._fd = real
    os.close(full)


def test_notes_of_any_type(log: Journal, tmp_path: Path) -> None:
    """What a policy notes can't break the record that tells of money, nor tell what it holds."""
    log.append({"event": "ended", "numbers": {"of": object(), "error": ValueError("secret"), "nan": float("nan")}})
    log.flush()
    (record,) = written(tmp_path)
    assert record["numbers"] == {"of": "<object>", "error": "<ValueError>", "nan": None}


def test_records_that_json_cannot_carry(log: Journal, tmp_path: Path) -> None:
    """A field that can't be written is left out; the rest of its record, and the record, are not."""
    endless: dict[str, Any] = {}
    endless["self"] = endless
    for strange in (endless, "\ud800", [10**5000]):
        log.append({"event": "ended", "exchange": "x", "decisions": strange})
    log.append(msgspec.structs.replace(ENDED, decisions=[endless]))
    log.flush()
    records = written(tmp_path)
    assert [record["decisions"] for record in records] == [None] * 4
    assert (records[3]["event"], records[3]["nanodollars"]) == ("ended", 7)


def test_find_and_follow(tmp_path: Path) -> None:
    """One exchange's records are found across segments; a follower gets each record once."""
    follower = Follower(tmp_path)
    log = Journal(tmp_path / "journal", 0, segment_bytes=1)
    seen: list[Any] = []
    for event in ("reserved", "settled", "ended"):
        log.append({"event": event, "exchange": "one", "at": 1})
        log.append({"event": event, "exchange": "two", "at": 1})
        log.flush()
        seen += follower.poll()
    log.close()
    assert [record["event"] for record in journal.find(tmp_path, "one")] == ["reserved", "settled", "ended"]
    assert len(seen) == 6
    assert follower.poll() == []
    assert journal.find(tmp_path, "three") == []
