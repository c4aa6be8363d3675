"""The tree of commands, and the one place where a failure becomes an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from proxy import __version__
from proxy.cli import (
    audit,
    budget,
    cache,
    cascade,
    diff,
    explain,
    files,
    jobs,
    keys,
    ledger,
    operate,
    policy,
    prices,
    reconcile,
    records,
    report,
    serve,
    simulate,
    tokenizers,
    top,
)
from proxy.cli.output import CommandError, paint, say

app = typer.Typer(
    name="weir",
    help="Weir: an OpenAI-compatible proxy that meters, explains and lowers the cost of LLM traffic.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("serve")(serve.serve)
app.command("check")(files.check)
app.command("diff")(diff.diff)
app.command("schema")(files.print_schema)
app.command("explain")(explain.explain)
app.add_typer(keys.app)
app.command("audit")(audit.audit)
app.add_typer(prices.app)
app.add_typer(records.app)
app.command("why")(records.why)
app.command("report")(report.report)
app.command("reconcile")(reconcile.reconcile)
app.add_typer(ledger.app)
app.command("close")(ledger.close)
app.add_typer(budget.app)
app.add_typer(cache.app)
app.add_typer(cascade.app)
app.add_typer(policy.app)
app.add_typer(jobs.app)
app.command("status")(operate.status)
app.command("top")(top.top)
app.command("reload")(operate.reload)
app.command("restart")(operate.restart)
app.command("drain")(operate.drain)
app.command("bypass")(operate.bypass)
app.add_typer(tokenizers.app)
app.command("simulate", add_help_option=False, context_settings=simulate.PASSED_ON)(simulate.simulate)


def _version(asked: bool) -> None:
    if asked:
        print(f"weir {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Weir: an OpenAI-compatible proxy that meters, explains and lowers the cost of LLM traffic."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; an expected failure prints one line to stderr."""
    try:
        app(args=list(arguments), prog_name="weir")
    except SystemExit as exit:
        return _status(exit.code)
    except CommandError as failure:
        say(paint("weir: ", "red", sys.stderr) + str(failure))
        return failure.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `weir journal tail | head`: the reader has seen enough. Python would complain again when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        say(f"weir: {error.filename or 'error'}: {error.strerror or error}")
        return 1
    return 0


def _status(code: str | int | None) -> int:
    return code if isinstance(code, int) else int(code is not None)
