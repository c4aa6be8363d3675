"""CPU of a unary request with a budget and a rate limit on, against nginx in the same run, as in `bench.overhead`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import certificates, machine
from bench.overhead import rounds, unary
from bench.results import Row
from bench.subjects import Nginx, Origin, Setting, StaticUpstream, Subject, Weir

Maker = Callable[[Setting, Origin], Subject]

LIMIT: Final = 2.5
_POLICIES: Final = """version: 1
policies:
  - {use: budget, name: all, limit: 1000000 USD/month}
  - {use: ratelimit, requests: 100M/minute, tokens: 100000M/minute}
"""


class Limited(Weir):
    """Weir with a hard budget and a rate limit that nobody reaches."""

    name = "weir, limited"

    def deployment(self, home: Path) -> str:
        """The usual one, and the policies."""
        (home / "policies.yaml").write_text(_POLICIES)
        return super().deployment(home) + "policies: policies.yaml\n"


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """One row; beside it the same Weir without policies."""
    plan = rounds.QUICK if quick else rounds.FULL
    directory.mkdir(parents=True, exist_ok=True)
    setting = Setting(directory, machine.cores(), certificates.make(directory))
    reference: list[Maker] = [Nginx] if machine.nginx() else []
    makers: list[Maker] = [*reference, Limited, Weir]
    with rounds.stage(setting, plan, StaticUpstream, makers, Limited.name, tls=False) as stage:
        if machine.nginx() is None:
            stage.absent["nginx"] = "nginx is not installed"
        row, _ = unary.row(stage, "CPU, unary request with budget and rate limit", LIMIT, plan.rounds, (Weir.name,))
    yield row
