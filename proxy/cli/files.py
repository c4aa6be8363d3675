"""`weir check` and `weir schema`: the files that people write."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.home import ConfigOption, file_of
from proxy.cli.output import UsageError, paint, say


class Kind(StrEnum):
    """The kinds of files that have a schema."""

    deployment = "deployment"
    policies = "policies"
    overlay = "overlay"
    teams = "teams"


def check(
    file: Annotated[
        Path | None, typer.Argument(help="Deployment file; the one that `serve` would find if not given.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Check the files. Every error of the deployment file and of all that it names is reported at once."""
    from proxy.cli.problems import BadFilesError, listing
    from proxy.config import ConfigurationError
    from proxy.config.loading import load

    if file is not None and config is not None:
        raise UsageError("the deployment file is given twice: as FILE and by --config")
    path = file_of(file or config)
    try:
        configuration = load(path, os.environ)
    except ConfigurationError as error:
        raise BadFilesError(error) from None
    if configuration.warnings:
        say(listing(configuration.warnings))
    print(paint("ok", "green"), path)


def print_schema(kind: Annotated[Kind, typer.Argument(help="Which file.")] = Kind.deployment) -> None:
    """Print a JSON Schema. Editors check YAML files by it while you type."""
    from proxy.config.schemas import schema

    print(json.dumps(schema(kind.value), indent=2))
