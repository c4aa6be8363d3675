"""`weir report`: what was spent, by whom, on what, and how it compares; as a table, or a file for other programs."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, UsageError, console, say

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from proxy.config import Configuration
    from proxy.ledger.reporting.amounts import Currency
    from proxy.ledger.reporting.periods import Period
    from proxy.ledger.reporting.report import Asked, Report
    from proxy.ledger.reporting.section import Section


class Format(StrEnum):
    """What a report can be written as."""

    table = "table"
    csv = "csv"
    json = "json"
    xlsx = "xlsx"
    html = "html"
    pdf = "pdf"
    focus_1_2 = "focus-1.2"
    focus_1_4 = "focus-1.4"


class Compared(StrEnum):
    """What a period can be compared with."""

    previous = "previous"


_BINARY = (Format.xlsx, Format.pdf)
_ENDINGS = {f".{kind.value}": kind for kind in (Format.csv, Format.json, Format.xlsx, Format.html, Format.pdf)}
_ENDINGS[".htm"] = Format.html

CurrencyOption = Annotated[str | None, typer.Option(metavar="CODE", help="Show amounts in it; needs rate and date.")]
RateOption = Annotated[str | None, typer.Option(metavar="NUMBER", help="How many of it a dollar was worth.")]
RateDateOption = Annotated[str | None, typer.Option("--rate-date", metavar="DAY", help="The day of that rate.")]
OutOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there.")]


def report(
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A calendar month; the current one.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="DAY", help="The first day, instead of a month.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="DAY", help="The last day, included; today.")] = None,
    by: Annotated[str, typer.Option(metavar="NAMES", help="What to cut by: team,model,tag:env,day,…")] = "team",
    where: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Only these; patterns and lists; repeatable.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of days and months; the policy file's.")
    ] = None,
    compare: Annotated[Compared | None, typer.Option(help="With the period before: price, volume, movers.")] = None,
    users: Annotated[str | None, typer.Option(metavar="TAG", help="Cost of each value of this tag.")] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="By the file's name, else a table.")] = None,
    section: Annotated[str, typer.Option(help="Which part, as CSV.")] = "spend",
    output: OutOption = None,
    currency: CurrencyOption = None,
    rate: RateOption = None,
    rate_date: RateDateOption = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Tell what was spent. By team, model, key, tag, day, …, to the nano-dollar; closed months always alike."""
    from proxy.ledger.reporting.report import report as made
    from proxy.ledger.reporting.source import reading

    gc.disable()  # it makes many small objects, and ends soon
    kind = _format(format_, output)
    money = currency_of(currency, rate, rate_date)
    configuration = configuration_of(config)
    with usage_errors():
        asked = _asked(configuration, month, from_, to, by, where or [], time_zone, compare is not None, users)
    engine = ledger_of(configuration, home_of(home, config))
    with ledger_errors(), reading(engine) as source:
        told = made(source, asked)
    _write(told, kind, section, output, money)
    _warn(told)


def _asked(
    configuration: Configuration | None,
    month: str | None,
    first: str | None,
    last: str | None,
    by: str,
    where: list[str],
    zone: str | None,
    compare: bool,
    users: str | None,
) -> Asked:
    from proxy.ledger.reporting.budgets import budgets_of
    from proxy.ledger.reporting.cells import Where, reader
    from proxy.ledger.reporting.report import Asked

    now_s = time.time()
    period = _period(month, first, last, zone or (configuration.time_zone if configuration else "UTC"), now_s)
    dimensions = tuple(part.strip() for part in by.split(",") if part.strip()) or ("team",)
    for dimension in dimensions:
        reader(dimension)
    budgets = budgets_of(configuration) if configuration else ()
    return Asked(period, now_s, dimensions, Where.parse(where), compare, users, budgets)


def _period(month: str | None, first: str | None, last: str | None, zone: str, now_s: float) -> Period:
    from datetime import datetime
    from zoneinfo import ZoneInfo

    from proxy.ledger.reporting.periods import Period

    try:
        where = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{zone!r} is no time zone; write one such as Europe/Berlin") from None
    if month is not None and (first or last):
        raise ValueError("--month and --from or --to say different things; give one of them")
    if month is not None:
        return Period.month(month, where)
    if first is None and last is None:
        return Period.month_of(now_s, where)
    if first is None:
        raise ValueError("--to needs --from")
    end = _day(last, "--to") if last else datetime.fromtimestamp(now_s, where).date()
    return Period(_day(first, "--from"), end, where)


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} {text!r} is no day; write one such as 2026-11-30") from None


def _format(given: Format | None, output: Path | None) -> Format:
    kind = given or (_ENDINGS.get(output.suffix.lower(), Format.table) if output else Format.table)
    if kind in _BINARY and output is None and sys.stdout.isatty():
        raise UsageError(f"{kind.value} isn't for a terminal: name a file by -o")
    return kind


def _write(told: Report, kind: Format, section: str, output: Path | None, money: Currency | None) -> None:
    from proxy.ledger.reporting.sections import sections

    if kind in (Format.focus_1_2, Format.focus_1_4):
        _focus(told, kind, output, money)
        return
    parts = sections(told)
    if kind is Format.table and output is None:
        from proxy.ledger.reporting.terminal import to_terminal

        to_terminal(console(), parts, money)
        return
    put(_bytes(told, kind, parts, section, money), output)


def _bytes(told: Report, kind: Format, parts: list[Section], section: str, money: Currency | None) -> bytes:
    if kind is Format.json:
        from proxy.ledger.reporting.plain import to_json

        return to_json(told, parts, money)
    if kind is Format.xlsx:
        from proxy.ledger.reporting.workbook import to_xlsx

        return to_xlsx(parts, money)
    if kind is Format.html:
        from proxy.ledger.reporting.page import to_html

        return to_html(parts, money)
    if kind is Format.pdf:
        return pdf_of(parts, money)
    if kind is Format.csv:
        from proxy.ledger.reporting.plain import to_csv

        return to_csv(_named(parts, section), money)
    from proxy.ledger.reporting.terminal import to_text

    return to_text(parts, money)


def _named(parts: list[Section], name: str) -> Section:
    from proxy.ledger.reporting.sections import NAMES

    if name not in NAMES:
        raise UsageError(f"there is no section {name!r}; there are {', '.join(NAMES)}")
    found = [part for part in parts if part.key == name]
    if not found:
        raise CommandError(f"this report has no section {name}; --compare previous or a longer period may give it one")
    return found[0]


def _focus(told: Report, kind: Format, output: Path | None, money: Currency | None) -> None:
    """One file, or with 1.4 a directory of three data sets; each is checked before it is written."""
    from proxy.ledger.reporting.focus import files
    from proxy.ledger.reporting.focus_rules import violations

    if money is not None:
        raise UsageError("FOCUS carries what is billed, in US dollars: leave out --currency")
    made = files(told, "1.2" if kind is Format.focus_1_2 else "1.4")
    for name, (dataset, content) in made.items():
        if broken := violations(dataset, content):
            raise CommandError(f"{name} would break the specification: {broken[0]} (and {len(broken) - 1} more)")
    if kind is Format.focus_1_2 or output is None:
        put(made["CostAndUsage"][1], output)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, (_, content) in made.items():
        put(content, output / f"{name}.csv")


def _warn(told: Report) -> None:
    if told.sums.unpriced:
        say(f"{told.sums.unpriced:,} attempts have no known price and are in no sum; `weir prices` says which models")


# --- shared with `weir reconcile`


def pdf_of(parts: list[Section], money: Currency | None = None) -> bytes:
    """The PDF, where it can be made."""
    try:
        from proxy.ledger.reporting.paper import to_pdf
    except ImportError:
        raise CommandError(
            "a PDF needs one more package: pip install 'weir-proxy[pdf]'; or --format html, printed by a browser"
        ) from None
    return to_pdf(parts, money)


def put(content: bytes, output: Path | None) -> None:
    """Writes to the file, whole or not at all, or to stdout."""
    if output is None:
        sys.stdout.flush()
        raw = getattr(sys.stdout, "buffer", None)
        raw.write(content) if raw is not None else sys.stdout.write(content.decode())
        return
    beside = output.with_name(f".{output.name}.part")
    beside.write_bytes(content)
    beside.replace(output)


def currency_of(code: str | None, rate: str | None, day: str | None) -> Currency | None:
    """The currency that three options name together."""
    from proxy.ledger.reporting.amounts import Currency

    if code is None and rate is None and day is None:
        return None
    if code is None or rate is None or day is None:
        raise UsageError("--currency, --rate and --rate-date belong together: nothing is converted without saying how")
    with usage_errors():
        return Currency.parse(code, rate, day)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """What can't be understood on the command line is an error of its use."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def ledger_errors() -> Iterator[None]:
    """A database that is gone, or holds no ledger, is an expected failure."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandError(f"the ledger can't be read: {reason}") from None


_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _environment(file: Path) -> dict[str, str]:
    """The environment, with something in place of secrets that aren't there: a report calls no upstream."""
    try:
        named = _NAMED.findall(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        named = []  # what is wrong with the file is told by whoever loads it
    return dict.fromkeys(named, "unset") | dict(os.environ)


def configuration_of(config: Path | None) -> Configuration | None:
    """What the files say, if there are any; secrets needn't be there."""
    from proxy.cli.problems import BadFilesError
    from proxy.config import ConfigurationError
    from proxy.config.loading import find, load

    file = config or find(os.environ)
    if file is None:
        return None
    if not file.exists():
        raise CommandError(f"no such file: {file}")
    try:
        return load(file, _environment(file))
    except ConfigurationError as error:
        raise BadFilesError(error) from None


def ledger_of(configuration: Configuration | None, home: Path) -> Engine:
    """The ledger, for reading; it must be there."""
    from proxy.ledger.opening import LedgerError, address, current, engine_of

    url = configuration.deployment.ledger if configuration else "sqlite:///ledger.db"
    try:
        where = address(url, home)
        if where.drivername == "sqlite" and not Path(where.database or "").exists():
            raise CommandError(f"no ledger yet: {where.database}; `weir serve` begins one with the first request")
        engine = engine_of(url, home, reading=True)
        with ledger_errors():
            current(engine)
        return engine
    except LedgerError as error:
        raise CommandError(str(error)) from None
