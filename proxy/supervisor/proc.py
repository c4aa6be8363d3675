"""What the kernel knows of a process: CPU time and memory (Linux; zeros elsewhere)."""

from __future__ import annotations

import os
from pathlib import Path


def usage_of(pid: int) -> tuple[float, int]:
    """(CPU seconds, resident bytes) of a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0, 0
    # The command's name may hold spaces and brackets: fields are counted from the last bracket (proc(5)).
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")
