"""Which files, which home directory and which running proxy a command means.

The deployment file is the one of `--config`, else `$WEIR_CONFIG`, ./weir.yaml, /etc/weir/weir.yaml. The home, where the
journal, the keys and the state of one installation live, is that of `--home`, else `home:` of the deployment file, else
`$WEIR_HOME`, else the user's state directory. Only that one field of the file is read, so that `weir keys` works where
the upstreams' secrets are not set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.output import CommandError

if TYPE_CHECKING:
    from proxy.admin.client import AdminClient

HomeOption = Annotated[Path | None, typer.Option("--home", help="Where journal, keys and state live.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Deployment file.")]


def file_of(config: Path | None) -> Path:
    """The deployment file meant by this option; a file that must exist."""
    from proxy.config.loading import find

    file = config or find(os.environ)
    if file is None:
        raise CommandError("no deployment file: no --config, no $WEIR_CONFIG, no ./weir.yaml, no /etc/weir/weir.yaml")
    if not file.exists():
        raise CommandError(f"no such file: {file}")
    return file


def home_of(home: Path | None, config: Path | None) -> Path:
    """The home directory meant by these two options."""
    from proxy.config.deployment import default_home
    from proxy.config.loading import find

    if home is not None:
        return home.absolute()
    file = config or find(os.environ)
    return (file and _named_in(file_of(file))) or default_home(os.environ)


@contextlib.contextmanager
def proxy_of(home: Path | None, config: Path | None) -> Iterator[AdminClient]:
    """The proxy that runs with this home directory, at the address that it recorded there; its refusals are ours."""
    from proxy.admin.client import AdminClient, AdminError

    try:
        yield AdminClient(home_of(home, config))
    except AdminError as error:
        raise CommandError(str(error)) from None


def _named_in(file: Path) -> Path | None:
    """As the proxy itself reads it, variables included; what else is wrong with the file doesn't matter here."""
    from proxy.cli.problems import listing
    from proxy.config.reading import Reading, absolute

    source = Reading(os.environ).file(file, str(file))
    flaws = [flaw for flaw in source.problems if not source.readable or flaw.path == "home"]
    if flaws:
        raise CommandError(f"which home is meant can't be read; name it by --home\n{listing(flaws)}")
    named = source.data.get("home") if isinstance(source.data, dict) else None
    return absolute(file.parent, str(named)) if named else None
