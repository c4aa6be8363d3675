"""`weir diff OLD NEW`: what other files would change, in words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from proxy.cli.output import CommandError, paint

if TYPE_CHECKING:
    from proxy.config import Configuration
    from proxy.config.comparing import Change

_STYLES: Final = {"added": "green", "removed": "red", "moved": "blue", "changed": "yellow", "setting": "cyan"}
_UNSET: Final = re.compile(r"the environment variable (\w+) isn't set")


def diff(
    old: Annotated[Path, typer.Argument(help="Deployment file or policy file.")],
    new: Annotated[Path, typer.Argument(help="The one to compare with it, of the same kind.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array.")] = False,
) -> None:
    """Tell in words what new files change. Variables that aren't set stand for themselves, so no secret is needed."""
    from proxy.config.comparing import compare

    changes = compare(read(old), read(new))
    if as_json:
        print(json.dumps([change._asdict() for change in changes], indent=2, ensure_ascii=False))
    else:
        print("\n".join(map(_shown, changes)) if changes else "nothing changes")
    raise typer.Exit(1 if exit_code and changes else 0)


def read(path: Path, env: Mapping[str, str] | None = None) -> Configuration:
    """The configuration of a deployment file, or of a policy file alone; what isn't set stands for itself."""
    from proxy.cli.problems import BadFilesError
    from proxy.config import ConfigurationError
    from proxy.config.loading import default_configuration, load

    if not path.is_file():
        raise CommandError(f"no such file: {path}")
    given = dict(os.environ if env is None else env)
    try:
        if _is_deployment(path):
            return load(path, given)
        return default_configuration(given, overrides={"policies": str(path)})
    except ConfigurationError as error:
        missing = {found[1] for problem in error.errors if (found := _UNSET.fullmatch(problem.message))}
        if not missing - given.keys():
            raise BadFilesError(error) from None
    return read(path, given | {name: f"({name})" for name in missing})


def _is_deployment(path: Path) -> bool:
    """Whether a file says where things are: a policy file has nothing of that."""
    import yaml

    from proxy.config.deployment import DeploymentFile
    from proxy.config.policies import PolicyFile

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return True  # checking it says what is wrong
    own = DeploymentFile.model_fields.keys() - PolicyFile.model_fields.keys()
    return isinstance(found, dict) and bool(own & found.keys())


def _shown(change: Change) -> str:
    head = f"{paint(f'{change.kind:<8}', _STYLES[change.kind])} {change.name}"
    where = f"  {paint(change.where, 'dim')}" if change.where else ""
    return "\n".join([head + where, *(f"         {line}" for line in change.lines)])
