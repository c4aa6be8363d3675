"""`weir serve`: decide what to serve, say it loudly, and hand over to the supervisor.

Without any file the proxy still has something to do. The first of these that applies wins, and the first line of
output names it: `--config`, `--upstream`, `--demo`, `$UPSTREAM`, `./weir.yaml`, OpenAI if `$OPENAI_API_KEY` is set, and
at last the simulator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from proxy.cli.output import UsageError

OPENAI = "https://api.openai.com/v1"
HERE = Path("weir.yaml")


@dataclass(frozen=True, slots=True)
class Choice:
    """What will be served, and the words that say so."""

    kind: Literal["file", "upstream", "demo"]
    because: str
    path: Path | None = None
    url: str | None = None

    def __str__(self) -> str:
        what = {"file": f"the configuration {self.path}", "upstream": self.url, "demo": "the built-in SIMULATOR"}
        return f"{what[self.kind]} ({self.because})"


def choose(config: Path | None, upstream: str | None, demo: bool, env: Mapping[str, str], file_here: bool) -> Choice:
    """Which of the ways to serve was meant; pure, so that the order of precedence can be tested."""
    if (config is not None) + (upstream is not None) + demo > 1:
        raise UsageError("--config, --upstream and --demo exclude each other")
    if config is not None:
        return Choice("file", "--config", path=config)
    if upstream is not None:
        return Choice("upstream", "--upstream", url=upstream)
    if demo:
        return Choice("demo", "--demo")
    if url := env.get("UPSTREAM"):
        return Choice("upstream", "$UPSTREAM is set", url=url)
    if file_here:
        return Choice("file", "found in the current directory", path=HERE)
    if env.get("OPENAI_API_KEY"):
        return Choice("upstream", "$OPENAI_API_KEY is set", url=OPENAI)
    return Choice("demo", "no configuration, no $UPSTREAM, no $OPENAI_API_KEY: answers are made up")


def serve(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Deployment file.")] = None,
    upstream: Annotated[str | None, typer.Option(help="Proxy to this OpenAI-compatible URL.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Proxy to the built-in simulator: no key, no cost.")] = False,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of the data port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="How many worker processes.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where journal, keys and state live.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Policy file.")] = None,
    log_format: Annotated[str | None, typer.Option(help="human or json.")] = None,
) -> None:
    """Run the proxy until SIGTERM or Ctrl-C: the first one drains, a second one stops at once."""
    choice = choose(config, upstream, demo, os.environ, HERE.exists())
    print(f"weir serves {choice}")
    raise NotImplementedError
