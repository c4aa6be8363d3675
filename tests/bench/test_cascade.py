"""The measurement of cascades: what answers say, what a log costs, and that absent data are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import suites
from bench.cascade import logs, picture
from bench.cascade.__main__ import GROUPS, Bench
from bench.cascade.replay import Log, apgr

ROOT = Path(__file__).parents[2]


def test_answers_are_read_leniently_and_judged_by_their_task() -> None:
    """A fence, words around it, a broken string: read all the same; a mere fence is told from what isn't valid."""
    forms = (
        '{"answer": "18"}',
        '```json\n{"answer": "18"}\n```',
        'So {"answer": "18"}',
        '{"reasoning": "a\nb", "answer": "18"',
    )
    read = [logs.parsed(form) for form in forms]
    assert [one.answer for one in read] == ["18"] * 4
    assert [one.bare for one in read] == [False] * 4  # what was asked for has a reasoning, too
    whole = '{"reasoning": "9 * 2", "answer": "18"}'
    read = [logs.parsed(form) for form in (whole, f"```json\n{whole}\n```", f"So {whole}", '{"answer": "18"}')]
    assert [(one.bare, one.strict) for one in read] == [(True, True), (False, True), (False, False), (False, False)]
    assert logs.parsed("I don't know").answer is None
    assert logs.right("gsm", "$1,018.0", "# 1018")
    assert logs.right("crux", "[1,2]", "[1, 2]")
    assert not logs.right("crux", "[1,2]", "[2, 1]")
    assert logs.right("math-l5", "$\\dfrac{1}{2}$", "\\frac{1}{2}")


def test_costs_and_recovered_gaps_are_right() -> None:
    """By hand: two questions at 10 and 100; half of the gap is recovered by chance, all of it sooner by knowing."""
    pairs = [logs.Pair(f"question {at}", "x", float(at), 1.0, 10, 100) for at in range(2)]
    log = Log.of(pairs)
    assert log.cost(np.arange(2), np.array([False, True])) == pytest.approx(0.6)
    assert apgr(np.array([0.9, 0.1]), log.small, log.large) == pytest.approx(2 / 3)
    assert apgr(np.array([0.1, 0.9]), log.small, log.large) == pytest.approx(1 / 3)


def test_absent_data_are_skipped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group, with what to set."""
    monkeypatch.setattr(logs, "DATA", tmp_path)
    rows = list(Bench(Console(quiet=True), True).run(list(GROUPS)))
    assert [row.verdict for row in rows] == ["skip"] * len(GROUPS)
    assert all("WEIR_DATA" in row.note for row in rows)


def test_curves_are_drawn(tmp_path: Path) -> None:
    """Lines and points, each with its name."""
    picture.draw(
        tmp_path / "one.svg", "a < b", "cost", "quality", {"line": [(0.1, 0.9), (1.0, 1.0)], "point": [(0.5, 0.95)]}
    )
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 1
    assert "a &lt; b" in drawn


def test_the_suite_is_run_by_make() -> None:
    """`make bench-cascade` runs it."""
    assert list(suites.members("cascade")) == ["bench.cascade"]
    assert "-m bench.suites cascade" in (ROOT / "Makefile").read_text()
