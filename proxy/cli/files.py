"""`weir check` and `weir schema`: the files that people write."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.output import CommandError, paint, say
from proxy.cli.serve import HERE


class Kind(StrEnum):
    """The kinds of files that have a schema."""

    deployment = "deployment"
    policies = "policies"


def check(
    file: Annotated[Path | None, typer.Argument(help="Deployment file; ./weir.yaml if not given.")] = None,
) -> None:
    """Check a deployment file with all that it names, and report every error at once."""
    from proxy.cli.problems import BadFilesError, listing
    from proxy.config import ConfigurationError, load

    path = file or HERE
    if not path.exists():
        raise CommandError(f"no such file: {path}")
    try:
        configuration = load(path, os.environ)
    except ConfigurationError as error:
        raise BadFilesError(error.problems) from None
    if configuration.warnings:
        say(listing(configuration.warnings, "warning"))
    print(paint("ok", "green"), path)


def schema(kind: Annotated[Kind, typer.Argument(help="Which file.")] = Kind.deployment) -> None:
    """Print the JSON Schema of a file, for editors that check YAML while you type."""
    from proxy import config

    print(json.dumps(config.schema(kind.value), indent=2))
