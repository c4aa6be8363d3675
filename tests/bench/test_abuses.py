"""The count of abuses: which rows a test names, and that one wrong case spoils its row."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.abuses import ROWS, TESTS, judge, named


@pytest.mark.parametrize(
    ("test", "rows"),
    [
        ("test_row_3_control_byte[x]", {3}),
        ("test_rows_1_and_2_bad", {1, 2}),
        ("test_rows_4_to_6_and_38_bad[19]", {4, 5, 6, 38}),
        ("test_nothing_of_all_this_is_kept", set()),
    ],
)
def test_rows_are_named_by_tests(test: str, rows: set[int]) -> None:
    """As the tests' names say it."""
    assert named(test) == rows


def test_every_row_counts() -> None:
    """The tests there are name them all; a failure, an error or a skipped case is no answer."""
    names = [line.split("(")[0].split()[-1] for line in TESTS.read_text().splitlines() if "def test_row" in line]
    assert set().union(*map(named, names)) == set(ROWS)
    cases = "".join(f'<testcase name="{name}[1]"/>' for name in names)
    assert judge(ElementTree.fromstring(f"<s>{cases}</s>")).verdict == "pass"
    bad = '<testcase name="test_row_3_control_byte_in_the_key[2]"><skipped/></testcase>'
    row = judge(ElementTree.fromstring(f"<s>{cases}{bad}</s>"))
    assert (row.verdict, row.seen) == ("FAIL", "37 of 38")
