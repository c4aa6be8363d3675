"""Processes that tests start: none outlives them, also where they are killed.

On Linux, that is; elsewhere some would. What ends a child is the end of the thread that started it (prctl(2),
PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_setpriv = shutil.which("setpriv")


def at_our_end(number: int) -> Callable[[], object] | None:
    """For `preexec_fn`: the signal that the child gets then. SIGTERM where it has children of its own to end."""
    if _prctl is None:
        return None
    prctl = _prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, number)


def tied(command: Sequence[str]) -> tuple[str, ...]:
    """The command of a child that others start, as a supervisor within the tests does its workers: it is killed."""
    return tuple(command) if _setpriv is None else (_setpriv, "--pdeathsig", "KILL", "--", *command)
