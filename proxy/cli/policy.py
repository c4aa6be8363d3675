"""`weir policy report` and `weir policy resume`: what a policy does to those it is applied to, and bringing it back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of, proxy_of
from proxy.cli.output import CommandError, JsonOption, console, dollars, span

if TYPE_CHECKING:
    from rich.table import Table

    from proxy.ledger.reporting.treated import Compared, Difference

app = typer.Typer(name="policy", help="Compare a policy with its control group; bring it back.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The policy's name in the policy file.")]


@app.command("report")
def report(
    name: NameArgument,
    days: Annotated[float, typer.Option(min=0.01, help="How far to look back.")] = 30.0,
    version: Annotated[
        str | None, typer.Option("--hash", help="Only exchanges under this policy-file hash, or its beginning.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare treated exchanges with the control group. Cost, latency, errors, feedback, each with its interval."""
    import msgspec

    from proxy.cli.report import configuration_of, ledger_errors, ledger_of
    from proxy.ledger.reporting.source import reading
    from proxy.ledger.reporting.treated import compared

    now_ns = time.time_ns()
    engine = ledger_of(configuration_of(config), home_of(home, config))
    with ledger_errors(), reading(engine) as source:
        found = compared(source.connection, name, now_ns - int(days * 86400e9), now_ns, version or "")
    if not found.exchanges:
        raise CommandError(f"the ledger has no exchange of the last {days:g} days in which {name} had a say")
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    _tell(found)


@app.command("resume")
def resume(name: NameArgument, home: HomeOption = None, config: ConfigOption = None) -> None:
    """Bring a policy back that left the band of its guardrail. Counting begins anew."""
    with proxy_of(home, config) as proxy:
        proxy.resume(name)
    print(f"{name} is on again")


def _tell(found: Compared) -> None:
    show = console()
    show.print(f"{found.policy}: {found.exchanges:,} exchanges")
    if found.arms:
        show.print(_arms(found))
    if found.differences:
        show.print(_differences(found.differences))
        unit = "keys, which were drawn" if found.by_key else "exchanges"
        show.print(f"intervals of 95 % over {unit}; after what the policy itself spent: {dollars(found.overhead)}")
    elif found.arms:
        show.print("only one arm has enough exchanges: nothing to compare with")
    for action, count in sorted(found.actions.items(), key=lambda item: -item[1]):
        show.print(f"  {action:<24} {count:,}")
    if len(found.versions) > 1:
        listed = ", ".join(f"{version} ({count:,})" for version, count in found.versions.items())
        show.print(f"the policies changed in this time: {listed}; --hash compares within one of them")


def _arms(found: Compared) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("arm", "exchanges", "cost", "p50", "p99", "errors", *(["feedback"] * found.has_feedback)):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm in found.arms:
        p99 = f"{span(arm.p99_ns)} ({span(arm.p99_low_ns)} … {span(arm.p99_high_ns)})"
        feedback = "-" if arm.feedback is None else f"{arm.feedback:.3g} ({arm.feedbacks:,})"
        row = [arm.arm, f"{arm.exchanges:,}", dollars(round(arm.mean_nanodollars)), span(arm.p50_ns), p99]
        table.add_row(*row, f"{100 * arm.error_rate:.2f} %", *([feedback] * found.has_feedback))
    return table


def _differences(differences: tuple[Difference, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("treated less control", "difference", "from", "to", ""):
        table.add_column(column, justify="right" if column in ("difference", "from", "to") else "left")
    for one in differences:
        table.add_row(
            one.measure,
            *(_value(one.unit, value) for value in (one.difference, one.low, one.high)),
            "" if one.low is not None and one.high is not None and one.low * one.high > 0 else "may be chance",
        )
    return table


def _value(unit: str, value: float | None) -> str:
    if value is None:
        return "?"
    if unit == "nanodollars":
        return dollars(round(value))
    if unit == "ns":
        return f"{'-' * (value < 0)}{span(abs(round(value)))}"
    return f"{100 * value:+.2f} points" if unit == "share" else f"{value:+.3g}"
