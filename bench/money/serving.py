"""`weir`, but for the back-off before a worker that died young is replaced: for runs that kill on purpose."""

from __future__ import annotations

import sys

from proxy.cli import main
from proxy.supervisor import fleet, kept

if __name__ == "__main__":
    fleet.SETTLED_S = 0.0
    kept.SETTLED_S = 0.0
    sys.exit(main())
