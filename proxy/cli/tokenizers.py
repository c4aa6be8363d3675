"""`weir tokenizers`: fetch and list the files by which OpenAI's tokens are counted exactly."""

from __future__ import annotations

import json
import os
import urllib.error
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, console, say

app = typer.Typer(
    name="tokenizers", help="Fetch, list the tokenizers' files.", no_args_is_help=True, rich_markup_mode=None
)


@app.command()
def fetch(
    encoding: Annotated[list[str] | None, typer.Argument(metavar="[ENCODING]…", help="Which; all by default.")] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="The cache to fill.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="A mirror that has ENCODING.tiktoken.")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch what isn't there yet. A running proxy uses it after the next start."""
    from proxy.tokens import ranks

    directory = to or ranks.cache_dir(os.environ, home_of(home, config))
    wanted = [one for one in ranks.ALL if not encoding or one.encoding in encoding]
    if unknown := set(encoding or ()) - {one.encoding for one in wanted}:
        names = ", ".join(one.encoding for one in ranks.ALL)
        raise CommandError(f"unknown encoding {', '.join(sorted(unknown))}; there are {names}")
    for one in wanted:
        if ranks.present(directory, one):
            say(f"{one.encoding}: is there")
            continue
        try:
            size = ranks.fetch(directory, one, source or ranks.SOURCE)
        except (urllib.error.URLError, TimeoutError, ranks.Unusable) as error:
            why = getattr(error, "reason", None) or error
            raise CommandError(f"{one.encoding} wasn't fetched: {why}. Without it, tokens are estimated") from None
        say(f"{one.encoding}: fetched, {size / 1e6:.1f} MB")


@app.command("list")
def list_tokenizers(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="The cache to look into.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """List the tokenizers that are known. Whether their files are there, whole."""
    from rich.table import Table

    from proxy.tokens import ranks

    directory = to or ranks.cache_dir(os.environ, home_of(home, config))
    found = [(one, ranks.present(directory, one)) for one in ranks.ALL]
    if as_json:
        for one, there in found:
            print(json.dumps({"encoding": one.encoding, "present": there, "file": str(directory / one.file_name)}))
        return
    table = Table("encoding", "there", "models", box=None, pad_edge=False)
    for one, there in found:
        table.add_row(one.encoding, "yes" if there else "no", one.models)
    console().print(table)
    say(f"in {directory}")
