"""Names of groups of clients: what keeps one tenant's things apart from another's."""

from __future__ import annotations

from urllib.parse import quote


def group_name(*names: str) -> str:
    """`org/team/project`, `org/team`, `-/team`: each group has one such name, whatever stands in its parts."""
    parts = ["%2D" if name == "-" else quote(name, safe=" ") if name else "-" for name in names]
    while parts and parts[-1] == "-":
        parts.pop()
    return "/".join(parts)
