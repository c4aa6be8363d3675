"""`weir cache`: how the caches of a running proxy do, what an entry is, and forgetting."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from proxy.cli.cache_explain import explain
from proxy.cli.home import ConfigOption, HomeOption, proxy_of
from proxy.cli.output import CommandError, JsonOption, UsageError, dollars

app = typer.Typer(
    name="cache", help="Look at caches, and evict from them.", no_args_is_help=True, rich_markup_mode=None
)

app.command()(explain)

_KIB = 1024


@app.command()
def stats(
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show how caches do. Hits and misses since the proxy started, and what is held."""
    with proxy_of(home, config) as proxy:
        found = proxy.operate("cache", "stats")
    print(json.dumps(found) if as_json else "\n".join(_standing(found)))


@app.command()
def get(
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="As in the header x-weir-cache-entry.")],
    answer: Annotated[bool, typer.Option("--answer", help="Print the answer, and nothing else.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show an entry. Whose it is, how old, what it saves; its answer only if asked for."""
    with proxy_of(home, config) as proxy:
        found = dict(proxy.operate("cache", "get", entry=entry))
    told = found.pop("answer")
    if answer:
        if told is None:
            raise CommandError(f"the answer is {found['kind']}, {_size(found['bytes'])}: nothing that could be printed")
        print(told)
    else:
        print(json.dumps(found) if as_json else "\n".join(_entry(found)))


@app.command()
def evict(
    entries: Annotated[list[str] | None, typer.Argument(metavar="[ENTRY]...", help="As in x-weir-cache-entry.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="All with this tag.")] = None,
    model: Annotated[str | None, typer.Option(help="All that this model was asked for.")] = None,
    tenant: Annotated[str | None, typer.Option(help="All of a tenant.")] = None,
    policy: Annotated[str | None, typer.Option(help="All that this policy kept.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Forget entries. In all workers, and in what they share."""
    named = {"tag": tag, "model": model, "tenant": tenant, "policy": policy}
    given = {name: value for name, value in named.items() if value}
    if bool(entries) + len(given) != 1:
        raise UsageError("name entries, or one of --tag, --model, --tenant and --policy")
    with proxy_of(home, config) as proxy:
        found = proxy.operate("cache", "evict", **({"entries": entries} if entries else given))
    print(f"{_entries(found['evicted'])} evicted")


def _standing(found: Mapping[str, Any]) -> Iterator[str]:
    stored = found["stored"]
    for name, told in found["policies"].items():
        asked = told["hit"] + told["stale"] + told["miss"]
        rate = f"{(told['hit'] + told['stale']) / asked:.1%}" if asked else "-"
        counted = ", ".join(f"{told[action]:.0f} {action.replace('_', ' ')}" for action in _shown(told))
        yield f"{name}: {rate} hits ({counted})"
        yield f"  in the workers' memory: {_entries(round(told['entries']))}, {_size(told['bytes'])}"
    if not found["policies"]:
        yield "no cache runs"
    if stored is not None:
        yield f"shared by all: {'' if stored['exact'] else 'about '}{_entries(stored['entries'])}"


def _shown(told: Mapping[str, float]) -> Iterator[str]:
    for action in ("hit", "stale", "miss", "passed", "would_hit", "would_miss", "dropped"):
        if told[action] or action in ("hit", "miss"):
            yield action


def _entry(found: Mapping[str, Any]) -> Iterator[str]:
    made = datetime.fromtimestamp(found["made_s"]).astimezone()
    tokens = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found["tokens"].items())
    lines = {
        "made": f"{made:%Y-%m-%d %H:%M:%S}, {found['age_s']:.0f} s ago, kept as fresh for {found['ttl_s']:.0f} s",
        "model": found["model"] + (f", served {found['served']}" if found["served"] else ""),
        "answer": f"{found['kind']}, {_size(found['bytes'])}" + (f", {tokens}" if tokens else ""),
        "saves": f"{dollars(found['nanodollars'])} a hit",
        "tags": ", ".join(found["tags"]),
    }
    return (f"{name:<7} {text}" for name, text in lines.items())


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _size(size: float) -> str:
    if size < _KIB:
        return f"{size:.0f} bytes"
    return f"{size / _KIB:.1f} KiB" if size < _KIB**2 else f"{size / _KIB**2:.1f} MiB"
