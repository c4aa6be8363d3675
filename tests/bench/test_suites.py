"""Suites of benchmarks: found by what modules say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench import suites

ROOT = Path(__file__).parents[2]


def test_members_are_found_without_being_imported(tmp_path: Path) -> None:
    """Modules and packages, in order; neither another suite's nor those that name it elsewhere."""
    root = tmp_path / "bench"
    (root / "matrix").mkdir(parents=True)
    (root / "b.py").write_text('SUITE = "faults"\nraise RuntimeError\n')
    (root / "other.py").write_text('SUITE = "soak"\n')
    (root / "none.py").write_text('def f():\n    SUITE = "faults"\n')
    (root / "matrix/__main__.py").write_text('"""x"""\nSUITE = "faults"\n')
    (root / "matrix/part.py").write_text("")
    assert list(suites.members("faults", root)) == ["bench.b", "bench.matrix"]


def test_the_resilience_suite_holds_what_the_project_measures() -> None:
    """`make bench-faults` runs them."""
    assert {"bench.faults_matrix", "bench.hedge"} <= set(suites.members("faults"))
    assert "-m bench.suites faults" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("status", [0, 1])
def test_one_failure_fails_the_suite(tmp_path: Path, status: int) -> None:
    """The others run all the same, each with the arguments."""
    package = tmp_path / "bench"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "suites.py").write_text((ROOT / "bench/suites.py").read_text())
    (package / "a.py").write_text(f'SUITE = "s"\nimport sys\nprint("a", sys.argv[1:])\nsys.exit({status})\n')
    (package / "b.py").write_text('SUITE = "s"\nprint("b ran")\n')
    command = [sys.executable, "-m", "bench.suites", "s", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert "a ['--quick']" in done.stdout
    assert "b ran" in done.stdout
    assert f"{2 - status} of 2 passed" in done.stdout


def test_an_unknown_suite_is_said() -> None:
    """Not a suite that passes because it has nothing."""
    with pytest.raises(SystemExit) as ended:
        suites.main(["nothing"])
    assert ended.value.code == 2
