"""Log lines: one JSON object or one line of text each, on stderr.

Rules:
- Only the supervisor and the command line write logs. Workers send `log` messages; the data plane formats nothing.
- A line is an event in a few fixed words and named fields; whatever varies is a field, so that lines can be counted.
- Never a key, never a body. Fields with a telling name are masked and what looks like a key is masked wherever it
  stands: a safety net under the rule, not instead of it.
- One event is one line: control characters are escaped, so that nothing from a request can forge a line.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson

Form = Literal["human", "json"]
Level = Literal["debug", "info", "warning", "error"]

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
FIELD_LENGTH = 2000
MASK = "[masked]"

_SECRET_NAME = re.compile(r"(?i)(^|[_-])(secret|password|authorization|api[_-]?key|body|prompt|cookie|token)$")
_SECRET_TEXT = re.compile(r"\b(?:sk|wk|pk|rk)-[A-Za-z0-9_-]{8,}|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}")
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31"}


class Log:
    """Writes events of at least `level` to `stream`; `form` and `level` follow the configuration at reload."""

    def __init__(
        self,
        form: Form = "human",
        level: Level = "info",
        *,
        stream: TextIO | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.form = form
        self.level = level
        self._stream = stream
        self._now = now

    def write(self, level: Level, event: str, fields: Mapping[str, Any] | None = None) -> None:
        """One line, unless the level is below the configured one. A closed stderr is no reason to stop."""
        if LEVELS.index(level) < LEVELS.index(self.level):
            return
        stream = self._stream or sys.stderr
        clean = {name: _clean(name, value) for name, value in (fields or {}).items() if value is not None}
        with contextlib.suppress(OSError, ValueError):
            if self.form == "json":
                line = as_json(self._now(), level, event, clean)
            else:
                line = as_text(self._now(), level, event, clean, coloured=stream.isatty())
            print(line, file=stream, flush=True)

    def debug(self, event: str, **fields: Any) -> None:
        """What helps to find a fault."""
        self.write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What an operator wants to read back later."""
        self.write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is wrong, and the program went on."""
        self.write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Somebody has to act."""
        self.write("error", event, fields)


def as_json(at: datetime, level: str, event: str, fields: Mapping[str, Any]) -> str:
    """The JSON form; a field can't replace `at`, `level` or `event`."""
    line = {**fields, "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "level": level}
    line["event"] = _escape(event)
    ordered = {name: line[name] for name in ("at", "level", "event")} | line
    return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def as_text(at: datetime, level: str, event: str, fields: Mapping[str, Any], *, coloured: bool) -> str:
    """The human form: local time, level, event, then `name=value`."""
    mark = f"\x1b[{_COLOURS[level]}m{level:<7}\x1b[0m" if coloured else f"{level:<7}"
    rest = "".join(f" {_escape(name)}={_quoted(value)}" for name, value in fields.items())
    return f"{at.astimezone():%H:%M:%S} {mark} {_escape(event)}{rest}"


def masked(text: str) -> str:
    """`text` with everything that looks like a key replaced."""
    return _SECRET_TEXT.sub(MASK, text)


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        text = masked(value)
        return text if len(text) <= FIELD_LENGTH else text[:FIELD_LENGTH] + "…"
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", inner) for inner in value]
    return value if isinstance(value, bool | int | float) else masked(str(value))


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    text = _escape(text)
    return f'"{text}"' if isinstance(value, str) and (" " in text or not text) else text


def _escape(text: str) -> str:
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )
