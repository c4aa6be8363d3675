"""Python's collector of cycles, told to look seldom: what a process has once it is ready lives as long as it does.

Each look at the oldest generation walks all that was ever imported; making thousands of objects at once, as a reload
does, calls for hundreds of looks, which find nothing.
"""

from __future__ import annotations

import gc
from typing import Final

SELDOM: Final = (50_000, 20, 20)


def settle() -> None:
    """All that exists now is never looked at again, what comes later seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*SELDOM)
