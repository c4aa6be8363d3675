"""Secrets that exist nowhere else, and where they were seen.

Each is a word of its own, so that a hit says which secret leaked, and where. They are looked for as they are, in base64
and in hexadecimal: what a program would write by accident.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

NAMES = (
    "upstream-key-env",
    "upstream-key-file",
    "upstream-header",
    "client-key-unknown",
    "client-key-control",
    "client-key-api",
    "virtual-key",
    "declared-key",
    "admin-token",
    "admin-token-wrong",
    "state-password",
    "ledger-password",
    "webhook-secret",
    "inline-key",
    "prompt",
    "answer",
    "header-value",
    "query-value",
    "file-name",
    "file-content",
    "form-prompt",
    "idempotency-key",
    "broken-body",
    "upstream-error",
)
DIGITS, TOKEN_DIGITS = 11, 4  # the simulator's tokens have eight characters: a longer answer comes in pieces


def made(name: str) -> str:
    """The canary of a name: fixed, so that a leak found once can be looked for again."""
    return f"cnry{hashlib.sha256(name.encode()).hexdigest()[: TOKEN_DIGITS if name == 'answer' else DIGITS]}"


CANARIES = {name: made(name) for name in NAMES}


@dataclass
class Sinks:
    """Everything that the program wrote or showed, by where."""

    seen: dict[str, bytes] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # secrets that were made while it ran

    def add(self, sink: str, data: bytes | str) -> None:
        """Something more of a sink."""
        more = data.encode() if isinstance(data, str) else data
        self.seen[sink] = self.seen.get(sink, b"") + b"\n" + more

    def tree(self, sink: str, directory: Path) -> None:
        """All files below a directory, each a sink of its own."""
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.add(f"{sink}/{path.relative_to(directory)}", path.read_bytes())

    def secrets(self) -> Mapping[str, str]:
        """Every secret by name."""
        return {**CANARIES, **self.extra}

    def leaks(self, allowed: Iterable[tuple[str, str]] = ()) -> list[str]:
        """`secret in sink` for all that is where it must not be; `allowed` are (secret, beginning of a sink)."""
        may = tuple(allowed)
        found = []
        for name, value in self.secrets().items():
            for sink, data in self.seen.items():
                if any(name == which and sink.startswith(where) for which, where in may):
                    continue
                if any(form in data for form in forms(value)):
                    found.append(f"{name} in {sink}: …{_around(data, value)}…")
        return found


def forms(value: str) -> list[bytes]:
    """How a secret may be written."""
    raw = value.encode()
    packed = [base64.b64encode(b"x" * lead + raw)[4:-4] for lead in range(3)]
    return [raw, raw.hex().encode(), *(form for form in packed if len(form) >= 8)]


def _around(data: bytes, value: str) -> str:
    at = data.find(value.encode())
    return repr(data[max(0, at - 80) : at + 80]) if at >= 0 else "(encoded)"
