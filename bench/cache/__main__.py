"""`python -m bench.cache [--quick] [--only banking,qqp,…] [--orders N] [--million]`: what the semantic cache brings.

Streams of questions with known answers are played, one request after the other, against a whole data plane with the
policy, over sockets, from a cold cache and by default settings; a provider that knows the right answers stands behind
it. `hits` are all requests that upstream wasn't waited for, by meaning or exactly; `wrong` is of those by meaning.
Audits are reported beside them: so many calls were made all the same, but nobody waited for them.

Beside it, on the same vectors: fixed thresholds of the cosine, and vCache's rule. Curves are drawn in bench/pictures.
The data lie beside the repository (WEIR_DATA); what is absent is skipped. Exit status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import uvloop
from rich.console import Console

from bench import runner
from bench.cache import latency, picture, rules
from bench.cache.playing import Played, play, spread
from bench.cache.streams import DATA, shuffled
from bench.results import Row, judged, skipped

SUITE = "cache"
PICTURES = Path(__file__).parents[1] / "pictures"
TARGETS = {"banking": 0.58, "qqp": 0.13}
BOUNDS = (0.01, 0.02, 0.05)
MAIN = 0.02
QUICK = 3000
MISLED = 0.10
GROUPS = ("banking", "qqp", "medical", "clinc", "minimal", "histories", "paraphrased", "tenants", "others", "latency")


class Bench:
    """One run."""

    def __init__(self, console: Console, most: int | None, orders: int) -> None:
        self._console = console
        self._most = most
        self._orders = orders
        self._hits: dict[str, float] = {}

    def run(self, groups: list[str], million: bool) -> Iterator[Row]:
        """The rows of the table."""
        for group in groups:
            if group == "latency":
                yield from self._latency(million)
            elif not (DATA / "cache").is_dir():
                yield skipped(group, "", f"no data in {DATA}: set WEIR_DATA")
            elif group in TARGETS:
                yield from self._stream(group)
            elif group == "minimal":
                yield self._minimal()
            elif group == "histories":
                yield self._histories()
            elif group == "others":
                yield from self._others()
            elif group == "paraphrased":
                yield self._paraphrased()
            elif group == "tenants":
                yield self._tenants()
            else:
                yield self._adversarial(group)

    def _play(self, name: str, order: int, bound: float, paraphrase: bool = False) -> Played:
        stream = shuffled(name, order)[: self._most]
        played = uvloop.run(play(stream, bound, paraphrase=paraphrase))
        self._console.print(f"  {name} order {order} at {bound:.0%}: {_said(played)}", markup=False)
        return played

    def _stream(self, name: str) -> Iterator[Row]:
        curves: dict[str, picture.Curve] = {}
        for bound in BOUNDS:
            for order in range(self._orders if bound == MAIN else 1):
                played = self._play(name, order, bound)
                curves[f"{bound:.0%}, order {order}"] = played.curve
                if bound == MAIN and not order:
                    self._hits[name] = played.hit_rate
                least = TARGETS[name] if bound == MAIN else 0.0
                ok = played.error <= bound and (played.hit_rate >= least or self._most is not None)
                target = f"wrong <= {bound:.0%}" + (f", hits >= {least:.0%}" if least else "")
                yield judged(
                    f"{name}, bound {bound:.0%}, order {order}",
                    target,
                    _seen(played),
                    ok,
                    _said(played),
                    **_raw(played),
                )
        picture.draw(PICTURES / f"cache-{name}.svg", f"{name}: from a cold cache, default settings", curves, BOUNDS)

    def _adversarial(self, name: str) -> Row:
        played = self._play(name, 0, MAIN)
        beyond = played.out_of_scope / max(1, played.requests)
        ok = played.error <= MAIN and beyond <= 0.001
        note = f"{played.out_of_scope} hits on what is out of scope; {_said(played)}"
        return judged(
            f"{name}, adversarial",
            f"wrong <= {MAIN:.0%}, out of scope about 0",
            _seen(played),
            ok,
            note,
            **_raw(played),
        )

    def _minimal(self) -> Row:
        played = self._play("minimal", 0, MAIN)
        misled = played.misled / max(1, played.probes)
        near = rules.near(shuffled("minimal", 0)[: self._most], 0.85)
        note = f"of {played.probes}; a cosine of 0.85 has {near:.0%} of them; {_said(played)}"
        return judged(
            "minimal pairs: one word, number, name or `not` changed, or two words' order",
            f"misled < {MISLED:.0%}, wrong <= {MAIN:.0%}",
            f"{misled:.1%} misled, {_seen(played)}",
            misled < MISLED and played.error <= MAIN,
            note,
            **_raw(played),
        )

    def _histories(self) -> Row:
        played = self._play("histories", 0, MAIN)
        return judged(
            "the same last turn after three conversations",
            f"0 answers of another one, wrong <= {MAIN:.0%}",
            f"{played.elsewhere} of another one, {_seen(played)}",
            not played.elsewhere and played.error <= MAIN,
            _said(played),
            **_raw(played),
        )

    def _paraphrased(self) -> Row:
        played = self._play("banking", 0, MAIN, paraphrase=True)
        fixed = self._hits.get("banking")
        if fixed is None:
            fixed = self._play("banking", 0, MAIN).hit_rate
        ok = played.error <= MAIN and played.hit_rate >= fixed - 0.05
        target = f"within 5 points of {fixed:.1%}, wrong <= {MAIN:.0%}"
        return judged("banking, answers worded at random", target, _seen(played), ok, _said(played), **_raw(played))

    def _tenants(self) -> Row:
        played = self._play("tenants", 0, MAIN, paraphrase=True)
        note = f"{spread(played)}; {_said(played)}"
        return judged(
            "200 tenants by Zipf, worded at random",
            f"wrong <= {MAIN:.0%}",
            _seen(played),
            played.error <= MAIN,
            note,
            **_raw(played),
        )

    def _others(self) -> Iterator[Row]:
        for name in TARGETS:
            stream = shuffled(name, 0)[: self._most]
            made = rules.vectors(stream)
            tried = [(f"cosine >= {least}", rules.fixed(stream, made, least)) for least in (0.8, 0.9, 0.95)]
            tried += [(f"vCache {bound:.0%}", rules.vcache(stream, made, bound)) for bound in BOUNDS]
            for label, came in tried:
                seen = f"{came.hits / came.requests:.1%} hits, {came.wrong / max(1, came.hits):.2%} of them wrong"
                yield Row(f"{name}: {label}", "", seen, "-")

    def _latency(self, million: bool) -> Iterator[Row]:
        sizes: list[tuple[int, int, float | None, float]] = [(10_000, 1, 0.3, 1.0)]
        sizes += [(1_000_000, 100, None, 2.0)] if million else []
        for entries, partitions, p50, p99 in sizes:
            seen = latency.timed(entries, partitions)
            told = f"p50 {seen.p50:.3f} ms, p99 {seen.p99:.3f} ms"
            note = f"{seen.bytes_an_entry:,.0f} bytes an entry"
            target = ("" if p50 is None else f"p50 <= {p50} ms, ") + f"p99 <= {p99:.0f} ms"
            ok = (p50 is None or seen.p50 <= p50) and seen.p99 <= p99
            yield judged(f"look and decide, {entries:,} entries in {partitions}", target, told, ok, note)


def _seen(played: Played) -> str:
    return f"{played.hit_rate:.1%} hits, {played.error:.2%} of those by meaning wrong"


def _said(played: Played) -> str:
    first = "never" if played.certified_at is None else f"request {played.certified_at}"
    return (
        f"{played.semantic_rate:.1%} by meaning ({played.wrong} wrong), {played.exact / played.requests:.1%} exactly; "
        f"{played.audits / played.requests:.1%} audited; first hit {first}; {played.seconds:.0f} s"
    )


def _raw(played: Played) -> dict[str, object]:
    told = dataclasses.asdict(played)
    told.pop("tenants")
    return told


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cache", description=__doc__.split("\n\n", 1)[0] if __doc__ else ""
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"the first {QUICK} requests of each stream; not to be quoted"
    )
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--orders", type=int, default=3, help="how many orders of each stream, at the main bound")
    parser.add_argument("--million", action="store_true", help="also look among a million entries (some minutes, 3 GB)")
    asked = parser.parse_args(arguments)
    groups = asked.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"unknown groups: {', '.join(sorted(unknown))}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    facts = runner.introduced(console)
    found = list(Bench(console, QUICK if asked.quick else None, asked.orders).run(groups, asked.million))
    return runner.finished("cache", found, facts, console)


if __name__ == "__main__":
    sys.exit(main())
