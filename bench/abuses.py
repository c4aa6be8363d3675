"""`python -m bench.abuses`: all 38 abuses by clients, answered as the table says.

Counted, not timed: the tests of the table (`tests/wire/test_abuse.py`), each on the wire to a whole data plane. A row
is right when every test that names it is. Exit status 1 when one isn't.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from bench import runner
from bench.results import Row, judged

SUITE = "faults"
TESTS = Path(__file__).parents[1] / "tests/wire/test_abuse.py"
ROWS = range(1, 39)
_NAMED = re.compile(r"test_rows?_(\d+(?:_(?:to|and)_\d+)*)")


def named(test: str) -> set[int]:
    """The rows that a test names: `test_rows_4_to_16_and_38_…`."""
    found = _NAMED.match(test)
    spans = re.findall(r"(\d+)(?:_to_(\d+))?", found[1]) if found else []
    return {row for first, last in spans for row in range(int(first), int(last or first) + 1)}


def judge(report: ElementTree.Element) -> Row:
    """From the tests' report to the row of the table."""
    right, wrong = Counter[int](), Counter[int]()
    for case in report.iter("testcase"):
        bad = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        for row in named(case.get("name", "")):
            (wrong if bad else right)[row] += 1
    answered = [row for row in ROWS if right[row] and not wrong[row]]
    missed = [row for row in ROWS if row not in answered]
    return judged(
        "abuses by clients, each answered as its row of the table says",
        f"all {len(ROWS)}",
        f"{len(answered)} of {len(ROWS)}",
        not missed,
        f"wrong or not asked: {', '.join(map(str, missed))}"
        if missed
        else f"{len(list(report.iter('testcase')))} cases",
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.abuses", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same: it takes half a minute")
    parser.parse_args(arguments)
    console = Console(highlight=False)
    facts = runner.introduced(console)
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(TESTS)]
        done = subprocess.run(
            command, cwd=TESTS.parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode or not report.exists():
            console.print(done.stdout[-4000:], markup=False)
        found = ElementTree.parse(report).getroot() if report.exists() else ElementTree.Element("none")
    return runner.finished("abuses", [judge(found)], facts, console)


if __name__ == "__main__":
    sys.exit(main())
