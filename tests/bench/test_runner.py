"""What a benchmark that is run by itself leaves: a table, a file of rows, an exit status."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import runner
from bench.results import Row, judged, skipped


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([judged("a", "<= 1", "0.5", True), skipped("b", "<= 1", "no nginx")], 0),
        ([judged("a", "<= 1", "0.5", True), judged("b", "<= 1", "2", False)], 1),
    ],
    ids=["passed", "missed"],
)
def test_a_run_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: list[Row], status: int) -> None:
    """A missed target is the exit status; the file that is named holds the machine and all rows."""
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    console = Console(file=io.StringIO(), width=400)
    assert runner.finished("some", rows, {"cpu": "one"}, console) == status
    (path,) = tmp_path.glob("some-*.json")
    kept = json.loads(path.read_text())
    assert (kept["machine"], [row["number"] for row in kept["rows"]]) == ({"cpu": "one"}, ["a", "b"])
    assert isinstance(console.file, io.StringIO)
    assert path.name in console.file.getvalue().splitlines()[-1]
