"""CPU of a unary request with a budget and a rate limit on, against nginx in the same run, as in `bench.overhead`."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import certificates, machine
from bench.overhead import rounds, unary
from bench.results import Row
from bench.subjects import Nginx, Passthrough, Setting, StaticUpstream, Weir

LIMIT: Final = 2.5
_POLICIES: Final = """version: 1
policies:
  - {use: budget, name: all, limit: 1000000 USD/month}
  - {use: ratelimit, requests: 100M/minute, tokens: 100B/minute}
"""


class Limited(Weir):
    """Weir with a hard budget and a rate limit that nobody reaches."""

    name = "weir, limited"

    def deployment(self, home: Path) -> str:
        """The usual one, and the policies."""
        (home / "policies.yaml").write_text(_POLICIES)
        return super().deployment(home) + "policies: policies.yaml\n"


def rows(directory: Path, *, quick: bool) -> Iterator[Row]:
    """One row, and the same Weir without policies for comparison."""
    plan = rounds.QUICK if quick else rounds.FULL
    directory.mkdir(parents=True, exist_ok=True)
    setting = Setting(directory, machine.cores(), certificates.make(directory))
    makers = [*([functools.partial(Nginx, unbuffered=False)] if machine.nginx() else []), Limited, Weir, Passthrough]
    with rounds.stage(setting, plan, StaticUpstream, makers, Limited.name, tls=False) as stage:
        if machine.nginx() is None:
            stage.absent["nginx"] = "nginx is not installed"
        row, _ = unary.row(stage, "CPU, unary request with budget and rate limit", LIMIT, plan.rounds)
    yield row
