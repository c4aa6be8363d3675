"""`weir journal tail` and `weir why`: what the journal says, as lines for people or as its own JSON."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.lines import HEADING, Lines
from proxy.cli.output import CommandError, paint, say

if TYPE_CHECKING:
    from proxy.journal import Record

app = typer.Typer(name="journal", help="The record of every attempt.", no_args_is_help=True, rich_markup_mode=None)

POLL_S = 0.2

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.callback()
def _journal() -> None:
    """The record of every attempt."""


@app.command()
def tail(
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last ones.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as new ones are written.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the last attempts. Each line: time, exchange, model, tokens in and out, cost, times, outcome."""
    from proxy.journal import Follower

    where = home_of(home, config)
    written: Callable[[Record], Iterable[str]] = _as_json if as_json else Lines().of
    follower = Follower(where, from_start=False)
    recent = last_records(where, lines) or _from_ledger(where, lines, config)
    if not recent and not follow:
        say(f"the journal of {where} is empty")
        return
    if not as_json:
        print(paint(HEADING, "bold"), flush=True)
    for text in deque((text for record in recent for text in written(record)), lines):
        print(text, flush=follow)
    seen = {_name(record) for record in recent}
    while follow:
        records = follower.poll()
        for text in (text for record in records if _name(record) not in seen for text in written(record)):
            print(text, flush=True)
        time.sleep(0 if records else POLL_S)


def why(
    exchange: Annotated[str, typer.Argument(metavar="ID", help="As in the header x-weir-exchange.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell what happened to an exchange. What each policy decided, and each attempt with its cost."""
    from proxy.why import render
    from proxy.why import why as told

    where = home_of(home, config)
    records = _records(where, exchange, config)
    if not records:
        raise CommandError(f"no exchange {exchange} in the journal and the ledger of {where}")
    print(json.dumps(told(records)) if as_json else render(told(records)))


def _records(home: Path, exchange: str, config: Path | None) -> list[Record]:
    """From the journal; where its segments are gone, from the ledger, which takes longer to open."""
    from proxy.journal import find

    found = find(home, exchange)
    if any(record.get("event") == "reserved" or record.get("attempts") == 0 for record in found):
        return [*found]
    from proxy.cli.ledger import url_of
    from proxy.cli.report import configuration_of, ledger_errors
    from proxy.ledger.lookup import told

    with ledger_errors():
        return [*told(home, url_of(configuration_of(config)), exchange)]


def _from_ledger(home: Path, lines: int, config: Path | None) -> list[Record]:
    """The newest of what the journal doesn't hold any more."""
    from proxy.cli.ledger import last_of

    return [*last_of(home, lines, config)]


def last_records(home: Path, lines: int) -> list[Record]:
    """The newest records of all workers by time: at least those that make up the last `lines` lines, if there are."""
    from proxy.journal import read, segments

    ended: dict[str, int] = defaultdict(int)
    found: list[Record] = []
    for path in reversed(segments(home)):
        worker = path.name.partition("-")[2]
        if ended[worker] < lines:
            records = list(read(path))
            ended[worker] += sum(record.get("event") == "ended" for record in records)
            found += records
    return sorted(found, key=_at)


def _name(record: Record) -> tuple[object, ...]:
    """What tells records apart: one written between the look back and the first poll is found by both."""
    return record.get("exchange"), record.get("event"), record.get("attempt")


def _at(record: Record) -> int:
    return int(record.get("at", 0))


def _as_json(record: Record) -> list[str]:
    return [json.dumps(record)]
