"""`weir top`: what a running proxy does, as a terminal shows it: numbers of the last seconds, from its `/metrics`.

Rules: one look is a `Sample`, two of them are a `Frame` (`between`, pure); drawing decides nothing. It asks the ops
listener only, which has no secrets, so it can watch another host as well. Quantiles are interpolated within buckets, as
Prometheus does it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli.home import ConfigOption, HomeOption, home_of
from proxy.cli.output import CommandError, UsageError, console

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group
    from rich.table import Table

BUDGETS = 8
UPSTREAMS = 12
BAR = 20
_DURATION = "gen_ai_server_request_duration_seconds_bucket"
_TTFT = "gen_ai_server_time_to_first_token_seconds_bucket"

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: every series by name and labels, and the moment of it."""

    at_s: float
    series: Mapping[str, Mapping[Labels, float]]

    def sum(self, name: str, **labels: str) -> float:
        """All series of a name that have these labels."""
        wanted = labels.items()
        return sum(value for having, value in self.series.get(name, {}).items() if wanted <= having)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums for each value of a label."""
        sums: dict[str, float] = {}
        for having, value in self.series.get(name, {}).items():
            key = dict(having).get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums


@dataclass(frozen=True, slots=True)
class UpstreamLine:
    """An upstream in the seconds between two looks."""

    name: str
    calls_s: float
    failed: float  # of its calls
    ttft_p99_s: float | None
    in_flight: int
    states: Mapping[str, int]  # workers that see a deployment of it otherwise than well


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A limit and how much of it is used."""

    policy: str
    subject: str
    limit: str
    used: float


@dataclass(frozen=True, slots=True)
class Frame:
    """What is drawn. Rates are of the seconds between two looks; None where nothing happened in them."""

    version: str
    ready: int
    wanted: int
    bypass: bool
    config_valid: bool
    requests_s: float
    failed: float | None
    p50_s: float | None
    p99_s: float | None
    ttft_p50_s: float | None
    in_flight: int
    streams: int
    waiting: int
    tokens_s: float
    cost_h: float
    saved_h: float
    upstreams: tuple[UpstreamLine, ...] = ()
    budgets: tuple[BudgetLine, ...] = ()


def parsed(text: str, at_s: float) -> Sample:
    """A look, from Prometheus' text."""
    from prometheus_client.parser import text_string_to_metric_families

    series: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Sample(at_s, series)


def between(before: Sample, now: Sample) -> Frame:
    """What happened between two looks, and how it stands at the second."""
    seconds = max(now.at_s - before.at_s, 1e-9)

    def gained(name: str, **labels: str) -> float:
        return max(now.sum(name, **labels) - before.sum(name, **labels), 0.0)

    requests = gained("weir_exchanges_total")
    was = before.by("weir_exchanges_total", "status")
    ended = now.by("weir_exchanges_total", "status").items()
    failed = sum(value - was.get(status, 0.0) for status, value in ended if status.startswith("5"))
    saved = gained("weir_saved_dollars_total") - gained("weir_lost_dollars_total")
    return Frame(
        version=next(iter(now.by("weir_build_info", "version")), "?"),
        ready=int(now.sum("weir_workers_ready")),
        wanted=int(now.sum("weir_workers_wanted")),
        bypass=now.sum("weir_bypass") > 0,
        config_valid=now.sum("weir_config_valid") > 0,
        requests_s=requests / seconds,
        failed=failed / requests if requests else None,
        p50_s=_quantile(0.5, before, now, _DURATION),
        p99_s=_quantile(0.99, before, now, _DURATION),
        ttft_p50_s=_quantile(0.5, before, now, _TTFT),
        in_flight=int(now.sum("weir_exchanges_in_flight")),
        streams=int(now.sum("weir_streams")),
        waiting=int(now.sum("weir_exchanges_waiting")),
        tokens_s=gained("gen_ai_client_token_usage_sum") / seconds,
        cost_h=gained("weir_cost_dollars_total") / seconds * 3600,
        saved_h=saved / seconds * 3600,
        upstreams=tuple(_upstreams(before, now, seconds)),
        budgets=tuple(_budgets(now)),
    )


def _upstreams(before: Sample, now: Sample, seconds: float) -> Iterable[UpstreamLine]:
    lines = []
    for name in now.by("weir_attempts_total", "upstream"):
        calls = bad = 0.0
        for labels, value in now.series["weir_attempts_total"].items():
            if ("upstream", name) in labels:
                gained = value - before.series.get("weir_attempts_total", {}).get(labels, 0.0)
                calls += gained
                bad += gained * (not dict(labels)["status"].startswith("2"))
        in_flight, states = _standing(now, name)
        ttft = _quantile(0.99, before, now, _TTFT, upstream=name)
        lines.append(UpstreamLine(name, calls / seconds, bad / calls if calls else 0.0, ttft, in_flight, states))
    return sorted(lines, key=lambda line: (-len(line.states), -line.calls_s, line.name))[:UPSTREAMS]


def _standing(now: Sample, upstream: str) -> tuple[int, dict[str, int]]:
    """How its deployments stand: a deployment is `upstream`, `#key` if there are several, `/model`."""
    states: dict[str, int] = {}
    for labels, workers in now.series.get("weir_deployment_workers", {}).items():
        having = dict(labels)
        if _is_of(having["deployment"], upstream) and having["state"] != "ok" and workers:
            states[having["state"]] = states.get(having["state"], 0) + int(workers)
    flying = now.series.get("weir_deployment_in_flight", {}).items()
    return int(sum(value for labels, value in flying if _is_of(dict(labels)["deployment"], upstream))), states


def _is_of(deployment: str, upstream: str) -> bool:
    return deployment.split("/", 1)[0].split("#", 1)[0] == upstream


def _budgets(now: Sample) -> Iterable[BudgetLine]:
    found = []
    for labels, used in now.series.get("weir_budget_used_ratio", {}).items():
        having = dict(labels)
        found.append(BudgetLine(having["policy"], having["subject"], having["limit"], used))
    return sorted(found, key=lambda line: (-line.used, line.policy, line.subject, line.limit))[:BUDGETS]


def _quantile(q: float, before: Sample, now: Sample, name: str, **labels: str) -> float | None:
    """The quantile of what came between two looks; None where nothing did."""
    counts = _buckets(now, name, labels)
    for le, value in _buckets(before, name, labels).items():
        counts[le] = counts.get(le, 0.0) - value
    bounds = sorted(counts)
    if not bounds or counts[bounds[-1]] <= 0:
        return None
    rank, low, below = q * counts[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        count = counts[bound]
        if count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * ((rank - below) / (count - below) if count > below else 1.0)
        low, below = bound, count
    return low


def _buckets(sample: Sample, name: str, labels: Mapping[str, str]) -> dict[float, float]:
    sums: dict[float, float] = {}
    for having, value in sample.series.get(name, {}).items():
        if labels.items() <= having:
            le = float(dict(having)["le"])
            sums[le] = sums.get(le, 0.0) + value
    return sums


# --- drawing


def drawn(frame: Frame) -> Group:
    """A frame as it is shown."""
    from rich.console import Group
    from rich.text import Text

    parts = [_head(frame), _numbers(frame), _table_of_upstreams(frame)]
    if frame.budgets:
        parts.append(_table_of_budgets(frame))
    return Group(*[part for one in parts for part in (one, Text())][:-1])


def _head(frame: Frame) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    well = frame.ready >= frame.wanted > 0
    words = [
        Text(f"weir {frame.version}", style="bold"),
        Text(f"{frame.ready} of {frame.wanted} workers", style="green" if well else "red"),
    ]
    if frame.bypass:
        words.append(Text("BYPASS", style="yellow"))
    if not frame.config_valid:
        words.append(Text("newer files refused", style="red"))
    grid.add_row(*words)
    return grid


def _numbers(frame: Frame) -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(no_wrap=True)
    failed = "-" if frame.failed is None else f"{frame.failed:.1%}"
    grid.add_row(
        "requests/s", f"{frame.requests_s:.1f}", "p50", _time(frame.p50_s), "p99", _time(frame.p99_s), "5xx", failed
    )
    grid.add_row(
        "in flight", f"{frame.in_flight}", "streams", f"{frame.streams}", "waiting", f"{frame.waiting}", "", ""
    )
    grid.add_row(
        "cost/h", _money(frame.cost_h), "saved/h", _money(frame.saved_h), "tokens/s", f"{frame.tokens_s:,.0f}",
        "TTFT p50", _time(frame.ttft_p50_s),
    )  # fmt: skip
    return grid


def _table_of_upstreams(frame: Frame) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("upstream")
    for name in ("calls/s", "failed", "first token p99", "in flight"):
        table.add_column(name, justify="right")
    table.add_column("deployments")
    for one in frame.upstreams:
        states = ", ".join(f"{state.replace('_', ' ')} in {workers}" for state, workers in sorted(one.states.items()))
        table.add_row(
            one.name,
            f"{one.calls_s:.1f}",
            f"{one.failed:.1%}",
            _time(one.ttft_p99_s),
            str(one.in_flight),
            states or "ok",
            style="yellow" if states else None,
        )
    return table


def _table_of_budgets(frame: Frame) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("budget", "of", "limit"):
        table.add_column(name)
    table.add_column("used", justify="right")
    table.add_column("")
    for one in frame.budgets:
        colour = "red" if one.used >= 0.9 else "yellow" if one.used >= 0.75 else "green"
        bar = "█" * min(round(one.used * BAR), BAR)
        table.add_row(one.policy, one.subject, one.limit, f"{one.used:.1%}", f"[{colour}]{bar:<{BAR}}[/]")
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _money(dollars: float) -> str:
    return f"${dollars:,.2f}" if abs(dollars) >= 1 else f"${dollars:.4f}"


# --- the command


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Between two looks.")] = 2.0,
    url: Annotated[str | None, typer.Option(metavar="URL", help="The ops listener of another host.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
) -> None:
    """Watch requests, latency, cost, savings, budgets and upstreams."""
    from rich.live import Live
    from rich.text import Text

    address = _ops(url, home, config)
    before = _look(address)
    time.sleep(interval)
    if once:
        console().print(drawn(between(before, _look(address))))
        return
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    now = _look(address)
                except CommandError as failure:  # it may be starting again
                    live.update(Text(str(failure), style="red"), refresh=True)
                else:
                    live.update(drawn(between(before, now)), refresh=True)
                    before = now
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _ops(url: str | None, home: Path | None, config: Path | None) -> str:
    """The address to ask: the one given, else that of the proxy that runs with this home."""
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--url begins with http:// or https://, {url!r} doesn't")
        return url.rstrip("/").removesuffix("/metrics")
    from proxy.admin.running import running_in

    where = home_of(home, config)
    running = running_in(where)
    if running is None:
        raise CommandError(f"no proxy runs with the home directory {where}")
    if running.ops is None:
        raise CommandError("the running proxy has its ops listener switched off (`ops: off`), which tells the metrics")
    return f"http://{running.ops}"


def _look(address: str) -> Sample:
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(f"{address}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise CommandError(f"no metrics from {address}: {error}") from None
    try:
        return parsed(text, time.monotonic())
    except ValueError:
        raise CommandError(f"{address}/metrics doesn't answer with metrics") from None
