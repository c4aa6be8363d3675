"""`weir reconcile`: the provider's cost export against the ledger, each difference with its probable cause."""

from __future__ import annotations

import gc
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, UsageError, console
from proxy.cli.report import (
    CurrencyOption,
    OutOption,
    RateDateOption,
    RateOption,
    configuration_of,
    currency_of,
    ledger_errors,
    ledger_of,
    pdf_of,
    put,
)

if TYPE_CHECKING:
    from proxy.ledger.reconciling.compare import Comparison
    from proxy.ledger.reconciling.export import Export
    from proxy.ledger.reporting.amounts import Currency
    from proxy.ledger.reporting.section import Section


class Provider(StrEnum):
    """Whose exports are understood."""

    openai = "openai"
    anthropic = "anthropic"


class Format(StrEnum):
    """What a comparison can be written as."""

    table = "table"
    csv = "csv"
    json = "json"
    xlsx = "xlsx"
    html = "html"
    pdf = "pdf"


class Part(StrEnum):
    """What a CSV file holds."""

    findings = "findings"
    lines = "lines"
    summary = "summary"


_ENDINGS = {f".{kind.value}": kind for kind in (Format.csv, Format.json, Format.xlsx, Format.html, Format.pdf)}
_ENDINGS[".htm"] = Format.html


def reconcile(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="What the provider exports: JSON or CSV.")],
    provider: Annotated[Provider, typer.Option(help="Whose export it is.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="What the ledger calls a project; repeatable."),
    ] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="By the file's name, else a table.")] = None,
    section: Annotated[Part, typer.Option(help="Which part, as CSV.")] = Part.findings,
    output: OutOption = None,
    currency: CurrencyOption = None,
    rate: RateOption = None,
    rate_date: RateDateOption = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare with a provider's cost export. Every difference by day and project is named with its probable cause."""
    from proxy.ledger.reconciling.compare import sections
    from proxy.ledger.reconciling.export import ExportError, read

    gc.disable()  # it makes many small objects, and ends soon
    names = dict(_pair(text) for text in map_ or ())
    kind = format_ or (_ENDINGS.get(output.suffix.lower(), Format.table) if output else Format.table)
    money = currency_of(currency, rate, rate_date)
    try:
        export = read(provider.value, files)
    except ExportError as error:
        raise CommandError(str(error)) from None
    note = _in_dollars(export, money)
    found = _compare(export, provider.value, names, home, config)
    days = f"{provider.value}, {min(export.days)} to {max(export.days)} (UTC)"
    _write(found, sections(found, f"{days}{note}"), kind, section, output)


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.partition("=")
    if not equals or not theirs or not ours:
        raise UsageError(f"{text!r} is no pair; write --map proj_abc=search")
    return theirs, ours


def _in_dollars(export: Export, money: Currency | None) -> str:
    """Converts an export that isn't in dollars, by the rate that was given; says so."""
    from proxy.ledger.reconciling.export import in_dollars

    other = export.currencies - {"USD"}
    if not other:
        return ""
    if money is None or other != {money.code}:
        names = ", ".join(sorted(other))
        raise UsageError(f"the export is in {names}: say its rate by --currency, --rate and --rate-date")
    in_dollars(export, money)
    return f"; converted from {money}"


def _compare(
    export: Export, provider: str, names: dict[str, str], home: Path | None, config: Path | None
) -> Comparison:
    from proxy.ledger.reconciling.books import Books
    from proxy.ledger.reconciling.compare import compare
    from proxy.ledger.reconciling.ledger import Repeated, recorded
    from proxy.ledger.reporting.source import reading

    engine = ledger_of(configuration_of(config), home_of(home, config))
    with ledger_errors(), reading(engine) as source:
        cells = recorded(source, provider, min(export.days), max(export.days))
        return compare(Books(export, cells, names), Repeated(source.connection, provider))


def _write(found: Comparison, parts: list[Section], kind: Format, section: Part, output: Path | None) -> None:
    from proxy.ledger.reporting import page, plain, terminal, workbook

    if kind is Format.table and output is None:
        terminal.to_terminal(console(), parts)
    elif kind is Format.table:
        put(terminal.to_text(parts), output)
    elif kind is Format.csv:
        put(plain.to_csv(next(part for part in parts if part.key == section.value)), output)
    elif kind is Format.json:
        told = {"recorded_nanodollars": found.recorded, "billed_nanodollars": found.billed}
        put(plain.with_sections(told, parts), output)
    elif kind is Format.html:
        put(page.to_html(parts), output)
    else:
        if output is None and console().is_terminal:
            raise UsageError(f"{kind.value} isn't for a terminal: name a file by -o")
        put(pdf_of(parts) if kind is Format.pdf else workbook.to_xlsx(parts), output)
