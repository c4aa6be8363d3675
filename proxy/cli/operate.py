"""`weir status`, `reload`, `restart`, `drain` and `bypass`: what an operator asks of the proxy of a home directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, proxy_of
from proxy.cli.output import CommandError, JsonOption, paint, span

if TYPE_CHECKING:
    from proxy.admin.operated import Status


class Switch(StrEnum):
    """The two positions."""

    on = "on"
    off = "off"


def status(
    as_json: JsonOption = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Show how the proxy stands. Exits with 1 if it isn't ready."""
    import msgspec

    with proxy_of(home, config) as proxy:
        found = proxy.status()
    print(json.dumps(msgspec.to_builtins(found), indent=2) if as_json else standing(found))
    raise typer.Exit(0 if found.ready else 1)


def reload(home: HomeOption = None, config: ConfigOption = None) -> None:
    """Read the files again. Exits with 1 if they are bad; the configuration before stays in force."""
    with proxy_of(home, config) as proxy:
        outcome = proxy.reload()
    if not outcome.ok:
        raise CommandError("\n".join(["the files were refused, nothing changed", *outcome.problems]))
    print(f"configuration {outcome.hash} is {'now' if outcome.changed else 'still'} in force")


def drain(home: HomeOption = None, config: ConfigOption = None) -> None:
    """Finish what runs, then end. What SIGTERM does, too."""
    with proxy_of(home, config) as proxy:
        proxy.drain()
    print("draining")


def restart(
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Replace the workers one after the other while requests go on. Exits with 1 if a new one can't start."""
    with proxy_of(home, config) as proxy:
        before = proxy.status().replaced
        proxy.restart()
        while not no_wait and (found := proxy.status()).restarting:
            time.sleep(0.1)
    if no_wait:
        print("restarting")
        return
    if found.restart_problem:
        raise CommandError(f"restart given up, the other workers go on: {found.restart_problem}")
    count = found.replaced - before
    print(f"{count} worker{'s' * (count != 1)} replaced")


def bypass(
    switch: Annotated[Switch, typer.Argument(help="on or off.")], home: HomeOption = None, config: ConfigOption = None
) -> None:
    """Switch policies off or on. On: all but identity, hard budgets and metering step aside."""
    with proxy_of(home, config) as proxy:
        on = proxy.bypass(switch is Switch.on)
    print(f"bypass is {'on: policies step aside' if on else 'off: policies apply'}")


def standing(status: Status) -> str:
    """A status as lines for people."""
    state = "draining" if status.draining else "ready" if status.ready else "not ready"
    ready = sum(worker.ready for worker in status.workers)
    bypass = paint("on: policies step aside", "yellow") if status.bypass else "off"
    lines = [
        ("proxy", f"{paint(state, 'green' if status.ready else 'red')}, version {status.version}, pid {status.pid}"),
        ("up", span(int(status.uptime_s * 1e9))),
        ("data", ", ".join(status.listen)),
        ("ops", status.ops or "off"),
        ("admin", status.admin or "off"),
        ("home", status.home),
        ("workers", f"{ready} of {status.workers_wanted} ready, {status.restarts} restarts"),
        ("keys", str(status.keys)),
        ("bypass", bypass),
        *_stepped_back(status),
        ("files", f"{status.config_hash} in force" + ("" if status.config_valid else paint(", newer refused", "red"))),
        *(("", problem) for problem in status.problems),
        *_deployments(status),
    ]
    return "\n".join(f"{name:<8} {text}" for name, text in lines)


def _stepped_back(status: Status) -> Iterator[tuple[str, str]]:
    """Policies that left the band of their guardrail."""
    for one in status.stepped_back:
        numbers = ", ".join(f"{name} {value}" for name, value in one.why.items())
        since = span(int(max(0.0, time.time() - one.at_s) * 1e9))
        yield "policy", f"{one.policy} {paint('stepped back', 'red')} to {one.mode} {since} ago: {numbers}"


def _deployments(status: Status) -> Iterator[tuple[str, str]]:
    """How many deployments all workers call, and which not, and why."""
    known = status.deployments
    if not known:
        return
    well = sum(one.states.keys() == {"ok"} for one in known)
    yield "models", f"{well} of {len(known)} deployments ok"
    for one in known:
        for state, workers in one.states.items():
            if state != "ok":
                seen = f" in {workers} of {sum(one.states.values())} workers" if len(status.workers) > 1 else ""
                yield "", f"{one.model}: {one.deployment} is {paint(state.replace('_', ' '), 'yellow')}{seen}"
