"""How the ledger stands: what its keeper tells of itself (`Report`), and what that means now (`facts`).

Rules: light to import, for both ends of the line between them. How much is behind is worked out where it is asked,
from the journal as it is then: a keeper that gets no processor can't tell that it falls behind.
"""

from __future__ import annotations

import time
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

from proxy.ledger import spool


@dataclass(slots=True)
class Counts:
    """What was done since the start."""

    events: int = 0
    rows: int = 0
    duplicates: int = 0
    corrections: int = 0
    resolved: int = 0
    rejected: int = 0
    torn: int = 0
    removed: int = 0
    failures: int = 0
    closed: int = 0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


@dataclass(slots=True)
class LedgerFacts(Counts):
    """How the ledger stands. `behind`: what is in the journal and not in it. `waiting`: a month is due to be closed."""

    up: bool = True
    waiting: bool = False
    behind_bytes: int = 0
    behind_s: float = 0.0


@dataclass(slots=True)
class Report:
    """What the keeper tells. `offsets`: how far it came in each segment. `caught_up_at_s`: when it last had everything,
    by `time.monotonic`, which is one for all processes of a machine.
    """

    up: bool = True
    caught_up_at_s: float = field(default_factory=time.monotonic)
    counts: Counts = field(default_factory=Counts)
    offsets: dict[str, int] = field(default_factory=dict)
    waiting: bool = False


def facts(home: Path, report: Report) -> LedgerFacts:
    """What the report means now."""
    behind = sum(max(0, one.size - report.offsets.get(one.name, 0)) for one in spool.listing(home))
    late_s = max(0.0, time.monotonic() - report.caught_up_at_s) if behind else 0.0
    standing = {"up": report.up, "waiting": report.waiting}
    return LedgerFacts(**asdict(report.counts), **standing, behind_bytes=behind, behind_s=late_s)
