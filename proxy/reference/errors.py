"""`errors.md`: every code that an error of ours can have, found where the program makes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import policies
import proxy
from proxy.reference.raised import Raised, raised

_ELSEWHERE = ("simulator", "reference")
_BEGINNING = """# Errors

<!-- Written by `python -m proxy.reference`, from where the program makes its errors; run it again after a change. -->

`{"error": {"message", "type", "param", "code"}}`, as OpenAI's, for Anthropic's clients with a `type` beside `error`.
`…` stands for what differs from case to case. An upstream's own errors pass with their own codes.
[The wire](wire.md) says which connections are closed after an error, and where a client may try again.

| code | status | type | message |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    found: dict[str, list[Raised]] = {}
    for one in sorted(raised(sources())):
        found.setdefault(one.code, []).append(one)
    return _BEGINNING + "".join(_row(code, cases) for code, cases in sorted(found.items()))


def sources() -> dict[str, str]:
    """The program's modules by name; the simulator's errors are made up."""
    found = {}
    for package in (proxy, policies):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            if parts[1] not in _ELSEWHERE:
                found[".".join(parts)] = path.read_text("utf-8")
    return found


def _row(code: str, cases: Iterable[Raised]) -> str:
    cases = list(cases)
    statuses = ", ".join(dict.fromkeys(str(one.status) for one in cases if one.status))
    types = ", ".join(dict.fromkeys(f"`{one.type}`" for one in cases if one.type))
    messages = "<br>".join(dict.fromkeys(one.message for one in cases if one.message.strip("… ")))
    return f"| `{code}` | {statuses} | {types} | {messages.replace('|', chr(92) + '|')} |\n"
