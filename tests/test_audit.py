"""The audit log: complete, chained, and without secrets."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from proxy.audit import GENESIS, AuditLog, shown


def filled(home: Path, count: int = 4) -> AuditLog:
    log = AuditLog(home)
    for number in range(count):
        log.append("keys create", who="ann", subject=f"key_{number}", details={"team": "search", "role": None})
    return log


def test_what_is_written(tmp_path: Path) -> None:
    """One line an act, readable by its owner only, each with the hash of the one before."""
    log = filled(tmp_path)
    first, second, *_ = log.entries()
    assert (first.number, first.previous, first.who, first.details) == (1, GENESIS, "ann", {"team": "search"})
    assert second.previous == first.hash
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert log.verify() == (4, [*log.entries()][-1].hash, "")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"ann", b"bob"), *lines[2:]], "line 2 was changed"),
        (lambda lines: [lines[0], *lines[2:]], "before line 2 something is missing or was added"),
        (lambda lines: lines[1:], "before line 1 something is missing or was added"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "before line 2 something is missing or was added"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "before line 1 something is missing or was added"),
        (lambda lines: [lines[0], b"{}\n", *lines[1:]], "line 2 is no record"),
    ],
)
def test_tampering_shows(tmp_path: Path, change: object, problem: str) -> None:
    """A record that was changed, removed, repeated, moved or added breaks the chain there."""
    log = filled(tmp_path)
    log.path.write_bytes(b"".join(change(log.path.read_bytes().splitlines(keepends=True))))  # type: ignore[operator]
    assert log.verify().problem == problem


def test_a_cut_end_is_known_by_its_last_hash(tmp_path: Path) -> None:
    """What is left is sound, but ends otherwise than was noted."""
    log = filled(tmp_path)
    noted = log.verify().head
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:-1]))
    assert (log.verify().problem, log.verify().entries) == ("", 3)
    assert log.verify().head != noted


def test_a_torn_line(tmp_path: Path) -> None:
    """After a crash in the middle of a line the log goes on behind it, and says that there was one."""
    log = filled(tmp_path, 2)
    with log.path.open("ab") as file:
        file.write(b'{"number":3,"at')
    log.append("drain", who="ann")
    assert [entry.number for entry in log.entries()] == [1, 2, 3]
    assert log.verify().problem == "line 3 is no record"


def test_no_secret_is_written(tmp_path: Path) -> None:
    """Keys, tokens and line breaks don't get in, wherever they are said."""
    canaries = [
        "wk-canary0123456789",
        "wa-canary0123456789",
        "sk-proj-canary0123456789",
        "eyJcanary.eyJcanary.sig",
        "canary" * 10,
    ]
    log = AuditLog(tmp_path)
    for canary in canaries:
        log.append(f"DELETE /admin/keys/{canary}", who=f"x {canary}", subject=canary, details={"a": canary + "\n"})
    assert "canary" not in log.path.read_text()
    assert shown("key_0123456789ab") == "key_0123456789ab"
    assert log.verify().problem == ""


def write(home: Path) -> None:
    filled(home, 10)


def test_several_writers(tmp_path: Path) -> None:
    """The command line and the supervisor write at once: nothing is lost, and the chain holds."""
    processes = [multiprocessing.get_context("fork").Process(target=write, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert AuditLog(tmp_path).verify()[::2] == (30, "")
