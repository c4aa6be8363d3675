"""`weir serve`: decide what to serve, say it loudly, and hand over to the supervisor.

Without any file the proxy still has something to do. The first of these that applies wins, and the first line of
output names it: `--config`, `--upstream`, `--demo`, `$WEIR_CONFIG`, `$UPSTREAM`, ./weir.yaml or /etc/weir/weir.yaml,
OpenAI if `$OPENAI_API_KEY` is set, and at last the simulator.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from proxy.cli.home import ConfigOption, HomeOption, file_of
from proxy.cli.output import UsageError

if TYPE_CHECKING:
    from proxy.config import Configuration

OPENAI = "https://api.openai.com/v1"


class LogFormat(StrEnum):
    """The forms of log lines."""

    human = "human"
    json = "json"


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


def choose(config: Path | None, upstream: str | None, demo: bool, env: Mapping[str, str], found: Path | None) -> Choice:
    """Which of the ways to serve was meant; pure, so that the order of precedence can be tested."""
    if (config is not None) + (upstream is not None) + demo > 1:
        raise UsageError("--config, --upstream and --demo exclude each other")
    if config is not None:
        return Choice("file", "--config", path=config)
    if upstream is not None:
        return Choice("upstream", "--upstream", url=upstream)
    if demo:
        return Choice("demo", "--demo")
    if file := env.get("WEIR_CONFIG"):
        return Choice("file", "$WEIR_CONFIG is set", path=Path(file))
    if url := env.get("UPSTREAM"):
        return Choice("upstream", "$UPSTREAM is set", url=url)
    if found is not None:
        return Choice("file", "it was found here", path=found)
    if env.get("OPENAI_API_KEY"):
        return Choice("upstream", "$OPENAI_API_KEY is set", url=OPENAI)
    return Choice("demo", "no configuration, no $UPSTREAM, no $OPENAI_API_KEY: answers are made up")


def serve(
    file: Annotated[Path | None, typer.Argument(help="Deployment file, as `--config`.", show_default=False)] = None,
    config: ConfigOption = None,
    upstream: Annotated[str | None, typer.Option(metavar="URL", help="Proxy to this OpenAI-compatible API.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Proxy to the built-in simulator: no key, no cost.")] = False,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the data port.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of worker processes.")] = None,
    home: HomeOption = None,
    policies: Annotated[Path | None, typer.Option(metavar="FILE", help="Policy file.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Log lines for people or for programs.")] = None,
) -> None:
    """Run the proxy. SIGTERM or Ctrl-C drains it, a second one stops it at once."""
    from proxy.config.loading import find

    if file is not None and config is not None:
        raise UsageError("the deployment file is given twice: as FILE and by --config")
    choice = choose(config or file, upstream, demo, os.environ, find({}))
    if choice.path is not None:
        file_of(choice.path)
    given = overrides(listen=listen, workers=workers, home=home, policies=policies)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(_simulator()) if choice.kind == "demo" else choice.url
        status = _run(choice, reader(choice, url, given, log_format))
    raise typer.Exit(status)


def overrides(**given: object) -> dict[str, Any]:
    """The settings that the command line replaces, as the file would write them; paths as seen from here."""
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


def reader(
    choice: Choice, url: str | None, given: Mapping[str, Any], log_format: str | None
) -> Callable[[], Configuration]:
    """What reads the configuration, now and at each reload. What it takes from the environment no child inherits."""
    from proxy.config.loading import Kept, default_configuration, load
    from proxy.supervisor.environment import hide

    env, kept = dict(os.environ), Kept()

    def read() -> Configuration:
        if choice.kind == "file":
            configuration = load(choice.path, env, overrides=given, kept=kept)
        elif choice.kind == "demo":
            configuration = default_configuration(env, demo_url=url, overrides=given)
        else:
            configuration = default_configuration(env, upstream_url=url, overrides=given)
        hide(configuration, os.environ)
        return configuration if log_format is None else logging(configuration, log_format)

    return read


def logging(configuration: Configuration, form: str) -> Configuration:
    """The same configuration with log lines in this form; the level stays that of the file."""
    deployment = configuration.deployment
    log = deployment.log.model_copy(update={"format": str(form)})
    return configuration.model_copy(update={"deployment": deployment.model_copy(update={"log": log})})


def _run(choice: Choice, read: Callable[[], Configuration]) -> int:
    from proxy import supervisor
    from proxy.cli.problems import BadFilesError
    from proxy.config import ConfigurationError

    try:
        configuration = read()
    except ConfigurationError as error:
        raise BadFilesError(error) from None
    return supervisor.run(configuration, read=read, target=str(choice))


def _simulator() -> contextlib.AbstractContextManager[str]:
    from proxy.cli.simulate import simulator

    return simulator()
