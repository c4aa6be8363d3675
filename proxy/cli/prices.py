"""`weir prices`: what a model costs here, where each price is from, and what the deployment file changes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from proxy.cli.home import ConfigOption
from proxy.cli.output import CommandError, UsageError, console, paint, say

if TYPE_CHECKING:
    from proxy.config import Configuration
    from proxy.pricing import RateCard, RateCards
    from proxy.pricing.quote import Change, Quote

app = typer.Typer(name="prices", help="Show prices, and what differs.", no_args_is_help=True, rich_markup_mode=None)

ModelArgument = Annotated[str, typer.Argument(help="A model, as clients ask for it or as it is served.")]
ProviderOption = Annotated[str | None, typer.Option(metavar="NAME", help="Whose price, whatever the files say.")]
AtOption = Annotated[str | None, typer.Option(metavar="DATE", help="When: a date (its noon, UTC) or a date and time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


class Seller(NamedTuple):
    """Who sells the model: the provider of an upstream, if it is known, and the upstream."""

    provider: str | None
    model: str
    upstream: str | None = None
    regional: bool = False

    def card(self, cards: RateCards, at: datetime) -> RateCard | None:
        """What it costs there."""
        return cards.card(self.provider, self.model, at, upstream=self.upstream, regional=self.regional)

    def __str__(self) -> str:
        if self.upstream is None:
            return f"{self.model} at {self.provider or 'its maker'}"
        return f"{self.model} at {self.upstream}" + (f" ({self.provider})" if self.provider else "")


@app.command()
def show(
    model: ModelArgument,
    provider: ProviderOption = None,
    at: AtOption = None,
    tier: Annotated[str | None, typer.Option(metavar="NAME", help="Only this service tier, all of it.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show every price of a model. By unit and service tier, above which context, since when, where it is from."""
    from proxy.pricing.quote import quote

    cards, sellers = _found(config, provider, model)
    when, unpriced = _moment("--at", at), 0
    for seller in sellers:
        card = seller.card(cards, when)
        if card is None:
            unpriced += 1
            _say_unpriced(cards, seller, as_json=as_json)
        else:
            _show(seller, quote(cards, card, tier), as_json=as_json)
    if unpriced == len(sellers):
        raise typer.Exit(1)


@app.command()
def diff(
    model: ModelArgument,
    provider: ProviderOption = None,
    at: AtOption = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Compare with another day's prices, not the published ones.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option("--cards", metavar="FILE", help="Compare with compiled cards, as kept in the home.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show what differs. The deployment file's prices from the published ones, another day's or other cards'."""
    from proxy.pricing.quote import compared, quote

    cards, sellers = _found(config, provider, model)
    when = _moment("--at", at)
    old = _read(before) if before is not None else cards if since is not None else cards.overridden({})
    then, unpriced = when if since is None else _moment("--since", since), 0
    for seller in sellers:
        was, now = seller.card(old, then), seller.card(cards, when)
        if was is None and now is None:
            unpriced += 1
            _say_unpriced(cards, seller, as_json=as_json)
            continue
        told = [
            None if card is None else quote(source, card, whole=True) for source, card in ((old, was), (cards, now))
        ]
        changes = compared(*told)
        _show_changes(seller, changes, (was is None, now is None), as_json=as_json)
    if unpriced == len(sellers):
        raise typer.Exit(1)


def sellers_of(configuration: Configuration | None, provider: str | None, model: str) -> list[Seller]:
    """Where the deployment file sends this model; without one, or for a provider by name, only that."""
    from proxy.explain import route
    from proxy.pricing import is_regional, provider_of

    if provider is not None or configuration is None or (found := route(configuration, model)) is None:
        return [Seller(provider, model)]
    upstreams = configuration.deployment.upstreams
    sellers = [
        Seller(
            upstreams[target.upstream].provider or provider_of(target.url),
            target.model,
            target.upstream,
            is_regional(target.url),
        )
        for target in found.targets
    ]
    return list(dict.fromkeys(sellers))


def _found(config: Path | None, provider: str | None, model: str) -> tuple[RateCards, list[Seller]]:
    from proxy.pricing import RateCards

    configuration = _configuration(config)
    cards = RateCards.compile(configuration.deployment.prices if configuration is not None else None)
    return cards, sellers_of(configuration, provider, model)


def _configuration(config: Path | None) -> Configuration | None:
    from proxy.cli.home import file_of
    from proxy.cli.problems import BadFilesError
    from proxy.config import ConfigurationError
    from proxy.config.loading import find, load

    if config is None and find(os.environ) is None:
        return None
    try:
        return load(file_of(config), os.environ)
    except ConfigurationError as error:
        raise BadFilesError(error) from None


def _moment(option: str, text: str | None) -> datetime:
    from proxy.pricing.quote import moment

    now = datetime.now(UTC)
    try:
        return moment(text or "now", now)
    except ValueError:
        raise UsageError(
            f"{option} {text}: neither a date (2026-11-18) nor a date and time (2026-11-18T02:00)"
        ) from None


def _read(file: Path) -> RateCards:
    from proxy.pricing import RateCards

    try:
        return RateCards.from_bytes(file.read_bytes())
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from None


def _say_unpriced(cards: RateCards, seller: Seller, *, as_json: bool) -> None:
    from proxy.pricing.quote import nearest

    near = nearest(cards, seller.provider, seller.model)
    if as_json:
        print(json.dumps({"model": seller.model, "provider": seller.provider, "unpriced": True, "nearest": near}))
        return
    print(f"{paint(str(seller), 'bold')}: unpriced")
    say(f"no price is known; under a hard budget it is refused{_meant(near)}")


def _meant(near: Sequence[str]) -> str:
    return f". Nearest names: {', '.join(near)}" if near else ". A price of your own stands under `prices`"


def _show(seller: Seller, found: Quote, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        print(json.dumps({"upstream": seller.upstream, **msgspec.to_builtins(found, str_keys=True)}))
        return
    print(paint(str(seller), "bold"))
    print("\n".join(f"  {line}" for line in facts(found)))
    _table(
        ("TIER", "UNIT", "USD", "PER", "ABOVE", "FROM"),
        [
            (line.tier or "standard", line.unit, line.usd, _per(line.per, line.unit), _above(line.above), line.origin)
            for line in found.lines
        ],
    )
    for tier in found.unpriced_tiers:
        print(f"{tier}: unpriced (dearer, and how much isn't published)")


def facts(found: Quote) -> list[str]:
    """What is to be known of a card besides its prices."""
    sizes = [
        f"context {found.context_window:,}" if found.context_window else "",
        f"at most {found.max_output:,} out" if found.max_output else "",
    ]
    held = [f"since {found.effective_from}" if found.effective_from else "", found.hours or ""]
    named = f"prices.{found.override} of the deployment file, " if found.override else ""
    return [
        f"{f'{found.provider}/' if found.provider else ''}{found.model}: {named}{found.source}, cards {found.cards}",
        *(", ".join(filter(None, part)) for part in (held, sizes) if any(part)),
    ]


def _show_changes(seller: Seller, changes: Sequence[Change], unpriced: tuple[bool, bool], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        told: dict[str, Any] = {"model": seller.model, "provider": seller.provider, "upstream": seller.upstream}
        print(json.dumps({**told, "changes": msgspec.to_builtins(changes)}))
        return
    print(paint(str(seller), "bold") + ("" if changes else ": no difference"))
    for which, missing in zip(("before", "after"), unpriced, strict=True):
        if missing:
            print(f"  unpriced {which}")
    if changes:
        _table(
            ("TIER", "UNIT", "BEFORE", "AFTER", "PER", "TIMES"),
            [
                (
                    change.tier or "standard",
                    change.unit,
                    change.before or "-",
                    change.after or "-",
                    _per(change.per, change.unit),
                    "-" if change.ratio is None else f"{change.ratio:g}",
                )
                for change in changes
            ],
        )


def _per(per: int, unit: str) -> str:
    if "hours" in unit:
        return "hour"
    return {1_000_000: "million", 1000: "thousand", 1: "one"}.get(per, f"{per:,}")


def _above(above: dict[int, str]) -> str:
    return ", ".join(f"{start:,}: {usd}" for start, usd in above.items()) or "-"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in ("USD", "BEFORE", "AFTER", "TIMES")
        table.add_column(heading, overflow="fold", justify="right" if right else "left")
    for row in rows:
        table.add_row(*row)
    if rows:
        console().print(table)
    sys.stdout.flush()
