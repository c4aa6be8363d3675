"""`weir budget`: how the budgets of a running proxy stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from proxy.cli.home import ConfigOption, HomeOption, proxy_of
from proxy.cli.output import JsonOption, dollars

app = typer.Typer(name="budget", help="Look at budgets.", no_args_is_help=True, rich_markup_mode=None)

_COLUMNS = ("budget", "subject", "limit", "used", "", "reserved", "forecast", "resets")


@app.callback()
def _group() -> None:
    """Has `status` be a command of its own, as others will be."""


@app.command()
def status(
    budget: Annotated[str | None, typer.Argument(metavar="[BUDGET]", help="Its name in the policy file.")] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show how budgets stand. Used, reserved, and where it will be when the window ends; the fullest first."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate("budget", "status", **({"budget": budget} if budget else {}))
    if as_json:
        print(json.dumps(found))
    elif not found["budgets"]:
        print("no budget that anybody has used" if budget is None else f"no budget {budget} that anybody has used")
    else:
        print("\n".join(_table([_row(told) for told in found["budgets"]])))


def _row(told: Mapping[str, Any]) -> tuple[str, ...]:
    def amount(value: int | None) -> str:
        if value is None:
            return "-"
        return dollars(value) if told["unit"] == "nanodollars" else f"{value:,}"

    over = told["forecast"] is not None and told["forecast"] > told["amount"]
    return (
        told["budget"],
        told["subject"] + ("" if told["hard"] else " (soft)"),
        told["limit"],
        amount(told["used"]),
        f"{told['percent']:.1f}%",
        amount(told["reserved"]) + (", some wait" if told["waiting"] else ""),
        amount(told["forecast"]) + (" over" if over else ""),
        told["resets"] or "-",
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[index]) for row in (_COLUMNS, *rows)) for index in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
