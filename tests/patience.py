"""How long a test waits for what must come.

Long, since machines stall: nothing is proven by what comes in time, and nothing is waited for that doesn't come.
"""

from __future__ import annotations

from typing import Final

PATIENCE_S: Final = 60.0
