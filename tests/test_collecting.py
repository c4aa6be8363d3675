"""How seldom the collector looks."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from proxy import collecting
{settle}
before = sum(one["collections"] for one in gc.get_stats())
made = [[] for _ in range(40_000)]
print(sum(one["collections"] for one in gc.get_stats()) - before, gc.get_freeze_count() > 1000)
"""


def looks(settle: str) -> list[str]:
    script = SCRIPT.format(settle=settle)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_thousands_of_objects_call_for_no_look() -> None:
    """Once settled, what exists is out of its sight, and forty thousand new objects don't make it look."""
    assert looks("collecting.settle()") == ["0", "True"]
    count, frozen = looks("")
    assert int(count) > 20 and frozen == "False"
