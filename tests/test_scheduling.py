"""Who waits for the processor."""

from __future__ import annotations

import subprocess
import sys

_NICED = (
    "import os; from proxy import scheduling; n = os.nice(7); {call}; print(os.getpriority(os.PRIO_PROCESS, 0) - n)"
)


def test_who_answers_at_once_takes_no_larger_share() -> None:
    """A process that its administrator has niced stays so when it asks for short slices."""
    program = _NICED.format(call="scheduling.answer_at_once()")
    assert subprocess.check_output([sys.executable, "-c", program]).strip() == b"0"
