"""`commands.md`: every command of the command line with its arguments and options, as `--help` tells them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import typer.main

from proxy.cli.app import app
from proxy.simulator.__main__ import parser

_BEGINNING = """# Commands

<!-- Written by `python -m proxy.reference`; change the help in `proxy/cli/`, then run it again. -->

What they are for, with examples and exit statuses, is in the [guide](../guide/cli.md). Each has `--help` too.
"""
_SIMULATE = "weir simulate"


def page() -> str:
    """The whole page."""
    parts = [_BEGINNING]
    for name, command in every(typer.main.get_command(app), "weir"):
        options = _argparse(parser()) if name == _SIMULATE else _typer(command)
        parts += [f"## {name}\n", _flat(command.help or ""), "", *_table(list(options))]
    return "\n".join(parts).rstrip() + "\n"


def every(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _typer(command: Any) -> Iterator[tuple[str, str, str]]:
    """What is typed, the default, the help."""
    for one in command.params:
        if getattr(one, "hidden", False) or "--help" in one.opts:
            continue
        argument = one.param_type_name == "argument"
        typed = f"`{one.name.upper()}`" if argument else ", ".join(f"`{option}`" for option in _spelt(one))
        yield typed, "needed" if one.required else _default(one.default), one.help or ""


def _spelt(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _argparse(made: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    for one in made._actions:
        if one.option_strings and not isinstance(one, argparse._HelpAction):
            yield ", ".join(f"`{name}`" for name in one.option_strings), _default(one.default), one.help or ""


def _default(value: object) -> str:
    if value is None or callable(value) or value is False or value == () or value == []:
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {typed} | {default} | {_flat(text)} |" for typed, default, text in rows]
    return ["| | default | |", "|---|---|---|", *lines, ""]


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
