"""`weir keys`: make, list, rotate and revoke keys. A running proxy, and a fleet of them, follows within a second."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.audit import audited, span_s
from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, UsageError, console, say

if TYPE_CHECKING:
    from proxy.clients.keys import KeyRecord, KeyStore

app = typer.Typer(name="keys", help="Make, list, rotate, revoke keys.", no_args_is_help=True, rich_markup_mode=None)

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class RoleName(StrEnum):
    """The roles of the admin listener."""

    viewer = "viewer"
    finance = "finance"
    operator = "operator"


@app.command()
def create(
    org: Annotated[str, typer.Option(help="Organisation that pays.")] = "",
    team: Annotated[str, typer.Option(help="Team that pays.")] = "",
    project: Annotated[str, typer.Option(help="Project that pays.")] = "",
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag on each exchange; repeatable.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Only these models; repeatable.")] = None,
    expires: Annotated[str | None, typer.Option(metavar="WHEN", help="90d, 12h, or a date like 2030-01-31.")] = None,
    role: Annotated[
        RoleName | None, typer.Option(help="A key of the admin listener instead, for somebody who may do this.")
    ] = None,
    id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Its name in logs and reports.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key. It is printed: the only time that anyone can read it."""
    labels, until = tags(tag or ()), moment(expires, time.time())
    if id is not None and not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,64}", id):
        raise UsageError("--id: up to 64 letters, digits and _ . : @ -")
    where = home_of(home, config)
    with audited(where, "keys create", role=role, expires=until) as said, _store(where) as store:
        try:
            secret, record = store.create(
                org=org,
                team=team,
                project=project,
                tags=labels,
                expires=until,
                models=model,
                role=None if role is None else role.value,
                id=id,
            )
        except ValueError as error:
            raise CommandError(str(error)) from None
        said |= {"subject": record.id, "scope": _scope(record)}
    print(secret)
    if sys.stdout.isatty():
        say(f"{record.id}: shown once, stored hashed; revoke it by `weir keys revoke {record.id}`")


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    every: Annotated[bool, typer.Option("--all", help="The revoked and the expired too.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """List the keys. They are shown without what would open anything."""
    import msgspec

    now_s = time.time()
    with _store(home_of(home, config)) as store:
        keys = [key for key in store.list() if every or key.active(now_s)]
    if as_json:
        for key in keys:
            print(json.dumps({**msgspec.to_builtins(key), "active": key.active(now_s)}))
        return
    _table(keys, now_s)


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or the key itself.")],
    overlap: Annotated[str, typer.Option(metavar="SPAN", help="How long the one before still opens.")] = "24h",
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Make another secret for a key, which keeps its id. Both open until the overlap is over."""
    where, overlap_s = home_of(home, config), span_s(overlap)
    with audited(where, "keys rotate", overlap=overlap) as said, _known(key), _store(where) as store:
        secret, record = store.rotate(key, overlap_s)
        said["subject"] = record.id
    print(secret)
    if sys.stdout.isatty():
        say(f"{record.id}: shown once, stored hashed; the one before opens for {overlap} more")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, or the key itself.")],
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a key: all secrets of an id, or this one. Every worker of every host refuses it within a second."""
    where = home_of(home, config)
    with audited(where, "keys revoke") as said, _known(key), _store(where) as store:
        record = store.revoke(key)
        said |= {"subject": record.id, "scope": _scope(record)}
    print(f"{record.id} revoked")


@contextlib.contextmanager
def _known(key: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        shown = "this key" if key.startswith(("wk-", "wa-")) else key
        raise CommandError(f"no key {shown}; `weir keys list --all` shows all of them") from None


def _scope(record: KeyRecord) -> str:
    return "/".join(part or "-" for part in (record.org, record.team, record.project))


def tags(given: Sequence[str]) -> dict[str, str]:
    """`["cost=42", …]` as a dictionary."""
    pairs = [text.partition("=") for text in given]
    for name, separator, _ in pairs:
        if not name or not separator:
            raise UsageError(f"--tag {name}: a tag is NAME=VALUE")
    return {name: value for name, _, value in pairs}


def moment(text: str | None, now_s: float) -> float | None:
    """A duration from now (`90d`) or a date, its end in UTC, as Unix seconds."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([mhdw])", text):
        return now_s + int(match[1]) * UNITS_S[match[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--expires {text}: neither a duration (90d, 12h) nor a date (2030-01-31)") from None
    if len(text) == len("2030-01-31"):
        at = at.replace(hour=23, minute=59, second=59)
    at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at_s <= now_s:
        raise UsageError(f"--expires {text}: that is past")
    return at_s


def _table(keys: Sequence[KeyRecord], now_s: float) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    with_roles = any(key.role for key in keys)
    table.add_column("ID", no_wrap=True)
    for heading in (
        "ORG/TEAM/PROJECT",
        *(["ROLE"] if with_roles else []),
        "TAGS",
        "MODELS",
        "CREATED",
        "EXPIRES",
        "STATE",
    ):
        table.add_column(heading, overflow="fold")
    for key in keys:
        labels = ",".join(f"{name}={value}" for name, value in key.tags.items())
        models = "all" if key.models is None else ",".join(key.models)
        who = (key.id, _scope(key), *([key.role or "-"] if with_roles else []))
        table.add_row(*who, labels or "-", models, _day(key.created), _day(key.expires), _state(key, now_s))
    console().print(table)


def _state(key: KeyRecord, now_s: float) -> str:
    if key.revoked is not None:
        return "revoked"
    return "active" if key.active(now_s) else "expired"


def _day(at_s: float | None) -> str:
    return "never" if at_s is None else f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"


@contextlib.contextmanager
def _store(home: Path) -> Iterator[KeyStore]:
    from proxy.clients.keys import KeyFileError, KeyStore

    try:
        yield KeyStore(home)
    except KeyFileError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename or home}: {error.strerror or error}") from None
