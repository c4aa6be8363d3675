"""`weir ledger verify|status`, `weir close`: whether the ledger is what it was, how it stands, and locking a month."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.audit import audited
from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, JsonOption, dollars, paint

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from proxy.config.configuration import Configuration
    from proxy.ledger.closing import Closed, Month
    from proxy.ledger.standing import Standing

app = typer.Typer(name="ledger", help="What was used and what it cost, for good.", no_args_is_help=True)


@app.callback()
def _ledger() -> None:
    """What was used and what it cost, for good."""


@app.command()
def verify(as_json: JsonOption = False, home: HomeOption = None, config: ConfigOption = None) -> None:
    """Recompute hashes and sums. Exits with 1 if anything was changed, and names the first difference."""
    from proxy.cli.report import ledger_errors
    from proxy.ledger.verify import verify as verified

    _, engine = _reading(home, config)
    with ledger_errors():
        found = verified(engine)
    if as_json:
        names = ("blocks", "dropped", "rows", "months", "head", "problems")
        print(json.dumps({name: getattr(found, name) for name in names}, indent=2))
    else:
        gone = f", {found.dropped:,} of them without rows, by retention" if found.dropped else ""
        print(f"{found.rows:,} rows in {found.blocks:,} blocks{gone}; {found.months} closed months")
        print(f"head {found.head}")
        for problem in found.problems:
            print(paint(problem, "red"))
        print(paint("unchanged", "green") if not found.problems else f"{len(found.problems)} differences")
    raise typer.Exit(1 if found.problems else 0)


@app.command()
def status(as_json: JsonOption = False, home: HomeOption = None, config: ConfigOption = None) -> None:
    """Show how the ledger stands. Rows, closed months, what is open, and how far behind the journal it is."""
    from proxy.cli.report import ledger_errors
    from proxy.ledger.standing import standing

    where, engine = _reading(home, config)
    with ledger_errors():
        found = standing(engine, where)
    print(json.dumps(found.plain(), indent=2) if as_json else _lines(found))


@app.command()
def feedback(
    by: Annotated[str, typer.Option(help="served, asked, team, project, endpoint or policy.")] = "served",
    days: Annotated[float, typer.Option(min=0, help="Of the last so many days.")] = 30,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what clients said of answers. How many they rated, the mean from 0 to 1, and how many were bad."""
    from proxy.cli.report import ledger_errors
    from proxy.ledger.ratings import BY, ratings

    if by not in BY:
        raise CommandError(f"ratings can't be summed by {by!r}: {', '.join(BY)}")
    _, engine = _reading(home, config)
    with ledger_errors():
        found = ratings(engine, by, time.time_ns() - round(days * 86_400e9))
    if as_json:
        told = [{by: one.value, "count": one.count, "mean": round(one.mean, 6), "bad": one.bad} for one in found]
        print(json.dumps({"feedback": told}, indent=2))
        return
    print(f"{by.upper():<40} {'RATED':>8} {'MEAN':>6} {'BAD':>8}")
    for one in found:
        print(f"{one.value or '-':<40} {one.count:>8,} {one.mean:>6.2f} {one.bad:>8,}")


def close(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="As 2026-11.")],
    time_zone: Annotated[str | None, typer.Option(metavar="ZONE", help="Of the month; the policy file's.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Lock a month. What comes later for it is counted in the open month; its report stays the same for ever."""
    from proxy.cli.report import configuration_of, ledger_errors
    from proxy.ledger.closing import month as month_of
    from proxy.ledger.opening import LedgerError

    configuration = configuration_of(config)
    where = home_of(home, config)
    try:
        with audited(where, "close", subject=month), ledger_errors():
            zone = time_zone or (configuration.time_zone if configuration else "UTC")
            closed = _close(configuration, where, month_of(month, zone))
    except LedgerError as error:
        raise CommandError(str(error)) from None
    print(f"{closed.month.name} is closed ({closed.month.zone}): {closed.attempts:,} attempts, ", end="")
    print(f"${dollars(closed.nanodollars).lstrip('$')}")
    if closed.accrued:
        amount = dollars(closed.accrued_nanodollars, estimated=True)
        print(f"accrued: {closed.accrued:,} attempts sent in it and settled later, {amount}")
    print(f"head {closed.hash}")


def _close(configuration: Configuration | None, home: Path, month: Month) -> Closed:
    """What the journal still holds comes first."""
    from proxy.ledger.accounts import accounts_of
    from proxy.ledger.closing import close as closing
    from proxy.ledger.ingest import Ingest, Moved
    from proxy.ledger.labels import Accounts
    from proxy.ledger.opening import open_ledger
    from proxy.ledger.reporting.budgets import budgets_of

    accounts = accounts_of(configuration) if configuration else Accounts()
    engine = open_ledger(url_of(configuration), home)
    ingest = Ingest(engine, home, accounts)
    while True:
        try:
            if ingest.step().caught_up:
                break
        except Moved:  # the running proxy does the same
            continue
    return closing(engine, month, time.time_ns(), accounts, budgets_of(configuration) if configuration else ())


def url_of(configuration: Configuration | None) -> str:
    """The ledger's address."""
    return configuration.deployment.ledger if configuration else "sqlite:///ledger.db"


def last_of(home: Path, count: int, config: Path | None) -> list[dict[str, Any]]:
    """The records of the last exchanges; none where there is no ledger."""
    from proxy.cli.report import configuration_of, ledger_errors, ledger_of
    from proxy.ledger.lookup import last

    try:
        engine = ledger_of(configuration_of(config), home)
    except CommandError:
        return []
    with ledger_errors():
        return last(engine, count)


def _reading(home: Path | None, config: Path | None) -> tuple[Path, Engine]:
    from proxy.cli.report import configuration_of, ledger_of

    where = home_of(home, config)
    return where, ledger_of(configuration_of(config), where)


def _lines(found: Standing) -> str:
    behind = f"{found.behind_bytes:,} bytes of the journal" if found.behind_bytes else "nothing"
    gone = f", {found.dropped:,} dropped" if found.dropped else ""
    lines: list[tuple[str, Any]] = [
        ("kept in", found.kept_in),
        (
            "rows",
            f"{found.rows:,} in {found.blocks:,} blocks{gone}",
        ),
        ("newest", found.newest or "-"),
        ("open", f"{found.open_attempts:,} attempts sent and not settled"),
        ("closed", f"up to {found.closed} ({found.zone})" if found.closed else "no month"),
        ("behind", behind),
        ("segments", f"{found.segments:,} of the journal, {found.segment_bytes:,} bytes"),
        ("head", found.head),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in lines)
