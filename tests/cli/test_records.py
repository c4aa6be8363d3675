"""`weir journal tail` and `weir why` on a journal that a worker wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.journal import Journal
from tests.children import at_our_end
from tests.cli.conftest import Weir


def write(home: Path, worker: int, *exchanges: str, at_ns: int | None = None) -> Journal:
    """A journal of this worker, in which these exchanges were asked, answered and ended."""
    journal = Journal(home / "journal", worker)
    at_ns = time.time_ns() if at_ns is None else at_ns
    for number, exchange in enumerate(exchanges):
        for record in life(exchange, at_ns + number * 1000):
            journal.append(record)
    journal.flush()
    return journal


def life(exchange: str, at_ns: int) -> list[dict[str, Any]]:
    """The records of one exchange."""
    common = {"exchange": exchange, "worker": 0}
    reserved = {
        "event": "reserved",
        "at": at_ns,
        "attempt": 1,
        "asked": "fast",
        "model": "gpt-4o-mini",
        "upstream": "openai",
    }
    settled = {
        "event": "settled",
        "at": at_ns + 1,
        "attempt": 1,
        "outcome": "complete",
        "status": 200,
        "tokens": {"input_tokens": 12, "output_tokens": 3},
        "nanodollars": 3600,
        "known": "observed",
        "ttft_ns": 2_000_000,
        "total_ns": 3_000_000,
    }
    decision = {"policy": "allow", "source": "p.yaml:3", "action": "allowed", "numbers": {}}
    ended = {
        "event": "ended",
        "at": at_ns + 2,
        "status": 200,
        "outcome": "complete",
        "endpoint": "chat.completions",
        "asked": "fast",
        "nanodollars": 3600,
        "decisions": [decision],
    }
    return [common | each for each in (reserved, settled, ended)]


def test_tail_shows_the_last_lines_in_time_order(weir: Weir, tmp_path: Path) -> None:
    """The lines of all workers are merged by time, the last N shown under one heading."""
    now_ns = time.time_ns()
    write(tmp_path, 0, "a1", "a2", "a3", at_ns=now_ns)
    write(tmp_path, 1, "b1", "b2", "b3", at_ns=now_ns + 500)
    done = weir("journal", "tail", "-n", "4", "--home", str(tmp_path))
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["TIME", "EXCHANGE", "MODEL", "IN", "OUT", "COST", "TTFT", "TOTAL", "OUTCOME"]
    assert [line.split()[1] for line in lines] == ["a2", "b2", "a3", "b3"]
    assert lines[0].split()[2:] == [
        "gpt-4o-mini",
        "12",
        "3",
        "$0.0000036",
        "2.00",
        "ms",
        "3.00",
        "ms",
        "complete",
        "200",
    ]


def test_tail_as_json(weir: Weir, tmp_path: Path) -> None:
    """With --json the records come as they were written, one a line."""
    write(tmp_path, 0, "a1")
    done = weir("journal", "tail", "--json", "--home", str(tmp_path))
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(record["exchange"], record["event"]) for record in records] == [
        ("a1", "reserved"),
        ("a1", "settled"),
        ("a1", "ended"),
    ]


def test_tail_of_nothing(weir: Weir, tmp_path: Path) -> None:
    """An empty journal is said on stderr, and is no failure."""
    done = weir("journal", "tail", "--home", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "is empty" in done.stderr


def test_tail_follows(tmp_path: Path) -> None:
    """With -f, an exchange that ends later has its line, also from a segment that is new."""
    write(tmp_path, 0, "early")
    command = [sys.executable, "-m", "proxy.cli", "journal", "tail", "-f", "--home", str(tmp_path)]
    env, bound = os.environ | {"NO_COLOR": "1"}, at_our_end(signal.SIGKILL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=bound) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("TIME")
            assert process.stdout.readline().split()[1] == "early"
            write(tmp_path, 1, "late")
            assert process.stdout.readline().split()[1] == "late"
        finally:
            process.terminate()


def test_tail_into_a_closed_pipe(tmp_path: Path) -> None:
    """`weir journal tail | head -1` ends quietly."""
    write(tmp_path, 0, *(f"exchange{number}" for number in range(2000)))
    command = f"{sys.executable} -m proxy.cli journal tail -n 2000 --home {tmp_path} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("TIME")
    assert done.stderr == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_why_tells_decisions_and_attempts(weir: Weir, tmp_path: Path, as_json: bool) -> None:
    """Why names the policy with its file:line, the attempt, the tokens and the cost."""
    write(tmp_path, 0, "a1", "a2")
    done = weir("why", "a2", "--home", str(tmp_path), *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    if as_json:
        told = json.loads(done.stdout)
        assert (told["exchange"], told["nanodollars"], told["decisions"][0]["source"]) == ("a2", 3600, "p.yaml:3")
    else:
        for part in ("a2", "p.yaml:3", "allow", "12 in, 3 out", "$0.0000036"):
            assert part in done.stdout


def test_why_of_an_unknown_exchange(weir: Weir, tmp_path: Path) -> None:
    """An exchange that the journal doesn't hold is a failure that says where it was looked for."""
    done = weir("why", "nothing", "--home", str(tmp_path))
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
