"""`weir audit`: what was done to this installation, by whom; and whether the log was tampered with."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, UsageError, console, say

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.audit import Entry


def audit(
    last: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 50,
    since: Annotated[str | None, typer.Option(metavar="SPAN", help="Only these: 90m, 12h, 7d.")] = None,
    who: Annotated[str | None, typer.Option(help="Only what this one did.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain, and print its end.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the audit log. With --verify exits with 1 if a record was changed, added or removed."""
    from proxy.audit import AuditLog

    log = AuditLog(home_of(home, config))
    if verify:
        verdict = log.verify()
        if verdict.problem:
            raise CommandError(f"{log.path}: {verdict.problem}; {verdict.entries} records before it are sound")
        print(f"{verdict.entries} records, unbroken; the last is {verdict.head}")
        return
    since_ns = 0 if since is None else int((time.time() - span_s(since)) * 1e9)
    wanted = (entry for entry in log.entries() if entry.at_ns >= since_ns and who in (None, entry.who))
    found = deque(wanted, last)
    if as_json:
        import msgspec

        for entry in found:
            print(json.dumps({"at": entry.at.isoformat(), **msgspec.to_builtins(entry)}))
        return
    _table(found)


def span_s(text: str) -> float:
    """`90m`, `12h` or `7d` in seconds."""
    from proxy.cli.keys import UNITS_S

    number, unit = text[:-1], text[-1:]
    if not number.isdigit() or unit not in UNITS_S:
        raise UsageError(f"{text}: expected a span such as 90m, 12h or 7d")
    return float(number) * UNITS_S[unit]


@contextlib.contextmanager
def audited(home: Path, act: str, **details: object) -> Iterator[dict[str, object]]:
    """Writes down what a command does to the files themselves, and how that ended; what is yielded may be added to."""
    from proxy.audit import AuditLog, person

    said = dict(details)
    try:
        yield said
    except BaseException as error:
        said["result"] = "refused" if isinstance(error, (CommandError, KeyError)) else type(error).__name__
        raise
    finally:
        subject, result = str(said.pop("subject", "")), str(said.pop("result", "done"))
        try:
            AuditLog(home).append(act, who=person(), subject=subject, result=result, details=said)
        except OSError as error:  # what was done is done; nor may this hide why it failed
            say(f"weir: the audit log of {home} can't be written: {error.strerror or error}")


def _table(entries: deque[Entry]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("TIME (UTC)", "WHO", "ROLE", "FROM", "ACT", "ON", "RESULT", "DETAILS"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("TIME (UTC)", "WHO", "ROLE", "RESULT"))
    for entry in entries:
        details = " ".join(f"{name}={value}" for name, value in entry.details.items())
        table.add_row(
            f"{entry.at:%Y-%m-%d %H:%M:%S}",
            entry.who,
            entry.role or "-",
            entry.origin,
            entry.act,
            entry.subject or "-",
            entry.result,
            details,
        )
    console().print(table)
