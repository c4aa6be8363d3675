"""Journals for tests: exchanges as workers write them, with little to say for each."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from proxy.exchange import Decision, Saving
from proxy.journal import Ended, Entry, Estimate, Reserved, Settled, frame

NOON = 1_793_534_400 * 10**9  # 2026-11-01 12:00 UTC
SECOND = 10**9
PREFIX = "abcdefabcdef"


def exchange_id(number: int, prefix: str = PREFIX) -> str:
    """As a worker's process gives them."""
    return f"{prefix}{number:08x}"


def reserved(exchange: str, at: int = NOON, attempt: int = 1, **changes: Any) -> Reserved:
    """About to be sent."""
    fields: dict[str, Any] = {
        "worker": 0,
        "endpoint": "chat.completions",
        "kind": "client",
        "tenant": "t1",
        "key": "k1",
        "org": "acme",
        "team": "search",
        "project": "ranker",
        "tags": {"env": "prod", "app": "a"},
        "asked": "gpt-4o",
        "model": "gpt-4o",
        "deployment": "openai/gpt-4o",
        "upstream": "openai",
        "estimate": Estimate(100, 50, 9_000),
    }
    return Reserved(at=at, exchange=exchange, attempt=attempt, **{**fields, **changes})


def settled(exchange: str, at: int = NOON + SECOND, attempt: int = 1, **changes: Any) -> Settled:
    """Over."""
    fields: dict[str, Any] = {
        "worker": 0,
        "outcome": "complete",
        "status": 200,
        "served": "gpt-4o-2024-08-06",
        "tier": "default",
        "usage": {"prompt_tokens": 120, "completion_tokens": 40},
        "tokens": {"input_tokens": 120, "output_tokens": 40, "cached_tokens": 20},
        "nanodollars": 7_000,
        "known": "observed",
        "cards": "c" * 16,
        "ttft_ns": 200_000_000,
        "total_ns": SECOND,
        "upstream_request_id": "req_1",
        "error": None,
    }
    return Settled(at=at, exchange=exchange, attempt=attempt, **{**fields, **changes})


def ended(exchange: str, at: int = NOON + SECOND + 1000, **changes: Any) -> Ended:
    """The exchange is over."""
    fields: dict[str, Any] = {
        "worker": 0,
        "kind": "client",
        "parent": None,
        "status": 200,
        "outcome": "complete",
        "tenant": "t1",
        "key": "k1",
        "org": "acme",
        "team": "search",
        "project": "ranker",
        "tags": {"app": "a", "env": "prod"},
        "endpoint": "chat.completions",
        "asked": "gpt-4o",
        "attempts": 1,
        "total_ns": SECOND + 1000,
        "nanodollars": 7_000,
        "saved_nanodollars": 0,
        "policies_hash": "p" * 16,
        "decisions": [Decision("headers", "p.yaml:3", "set", {})],
        "savings": [],
        "started_by": None,
    }
    return Ended(at=at, exchange=exchange, **{**fields, **changes})


def whole(exchange: str, at: int = NOON, cost: int = 7_000, **identity: Any) -> list[Entry]:
    """An exchange of one attempt."""
    over = at + SECOND
    return [
        reserved(exchange, at, **identity),
        settled(exchange, over, nanodollars=cost),
        ended(exchange, over + 1000, nanodollars=cost, **identity),
    ]


def saving(policy: str = "cache", nanodollars: int = 500) -> Saving:
    """What a policy claims."""
    return Saving(policy, nanodollars, "gpt-4o", {"input_tokens": 10, "output_tokens": 5})


class Segment:
    """A segment that a test writes. `leave` lets go of it, as the end of its process does."""

    def __init__(self, home: Path, writer: str = "w0", started_ns: int = NOON) -> None:
        directory = home / "journal"
        directory.mkdir(exist_ok=True, parents=True)
        self.path = directory / f"{started_ns}-{writer}.journal"
        self._file = self.path.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, *records: Entry) -> None:
        """Adds whole records."""
        self._file.write(b"".join(map(frame, records)))

    def write_bytes(self, data: bytes) -> None:
        """Adds anything."""
        self._file.write(data)

    def leave(self) -> None:
        """The writer has gone."""
        self._file.close()


def journal(home: Path, *records: Entry, writer: str = "w0", started_ns: int = NOON) -> Path:
    """A segment that nobody writes to any more."""
    segment = Segment(home, writer, started_ns)
    segment.write(*records)
    segment.leave()
    return segment.path
