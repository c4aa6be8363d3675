"""Which home directory a command means: where the journal, the keys and the state of one installation live.

The first of these: `--home`, `home:` of the deployment file (`--config`, else ./weir.yaml), `$WEIR_HOME`, the user's
state directory. Only that one field is read, so that `weir keys` works where the upstreams' secrets are not set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.output import CommandError

HERE = Path("weir.yaml")

HomeOption = Annotated[Path | None, typer.Option("--home", help="Where journal, keys and state live.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Deployment file; ./weir.yaml if it exists.")]


def home_of(home: Path | None, config: Path | None) -> Path:
    """The home directory meant by these two options."""
    from proxy.config.deployment import default_home

    if home is not None:
        return home.absolute()
    file = config or (HERE if HERE.exists() else None)
    return (file and _named_in(file)) or default_home(os.environ)


def _named_in(file: Path) -> Path | None:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError:
        raise CommandError(
            f"{file}: not YAML; `weir check {file}` says more, or name the directory by --home"
        ) from None
    named = found.get("home") if isinstance(found, dict) else None
    return (file.parent / str(named)).absolute() if named else None
