"""`python -m bench.cascade [--quick] [--only gemini,certified,…]`: what a cascade costs, and what is proven of it.

Logged answers of two models to the same questions are played to the product's own features, scores and certificates.
No threshold is chosen in hindsight: what it costs and loses is told by pairs that had no part in choosing it. Costs are
a share of always-large; all small answers are paid.

Curves are drawn in bench/pictures. The data lie beside the repository (WEIR_DATA); what is absent is skipped. Exit
status 1 when a target was missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from bench import runner
from bench.cascade import logs, picture
from bench.cascade.replay import DELTA, EPSILON, MARKS, Certified, Drifted, Log, apgr, certify, decided, drift
from bench.cascade.spread import spread
from bench.quantiles import percentile
from bench.results import Row, judged, skipped
from policies.cascade.learning.certificate import RARELY

SUITE = "cascade"
PICTURES = Path(__file__).parents[1] / "pictures"
GROUPS = ("gemini", "certified", "routellm", "zeroeval", "llama", "drift", "latency")
NEEDS = {
    "gemini": "MMLU-Pro",
    "certified": "MMLU-Pro",
    "routellm": "RouteLLM",
    "zeroeval": "ZeroEval",
    "llama": "MMLU-Pro",
    "drift": "MMLU-Pro",
    "latency": "MMLU-Pro",
}
FLASH, PRO = "gemini-1.5-flash-002", "gemini-1.5-pro-002"
MINI, OMNI = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"
LLAMAS = "Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct"
QUALITY, PRICE = 0.98, 0.416
CERTIFIED_AT = 0.569  # of always-large, at 1,000 pairs
LABELS = 1500
MOST_PAIRS = 2000
DRAWN_S = 1.0  # seconds between two requests that are drawn for a pair, at ten requests a second and a tenth of them


class Bench:
    """One run."""

    def __init__(self, console: Console, quick: bool) -> None:
        self._console, self._quick = console, quick
        self._known: dict[tuple[str, str], Log] = {}
        self._pairs: dict[tuple[str, str], list[logs.Pair]] = {}

    def run(self, groups: list[str]) -> Iterator[Row]:
        """The rows of the table."""
        for group in groups:
            if (logs.DATA / NEEDS[group]).is_dir():
                began = time.monotonic()
                for row in getattr(self, f"_{group}")():
                    self._console.print(_said(row), markup=False)
                    yield row
                self._console.print(f"  {group}: {time.monotonic() - began:.0f} s", markup=False)
            else:
                yield skipped(group, "", f"no data in {logs.DATA / NEEDS[group]}: set WEIR_DATA")

    def _mmlu_pro(self, small: str, large: str) -> Log:
        pair = small, large
        if pair not in self._known:
            self._pairs[pair] = logs.shuffled(logs.mmlu_pro(small, large), 0)[: 3000 if self._quick else None]
            self._known[pair] = Log.of(self._pairs[pair])
        return self._known[pair]

    # --- what it costs at a quality

    def _gemini(self) -> Iterator[Row]:
        log = self._mmlu_pro(FLASH, PRO)
        folds = np.arange(len(log)) % 5

        def told(fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            others, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            loses = (1 - QUALITY) * float(log.large[others].mean())
            score = log.fitted(others, loses)
            scores = log.scored(score)[mine]
            threshold = score.plausible(loses, errors=0.0)
            return mine, scores, scores <= (-1.0 if threshold is None else threshold)

        scores, accepted = np.empty(len(log)), np.zeros(len(log), bool)
        for mine, found, given in spread(told, range(5)):
            scores[mine], accepted[mine] = found, given
        every = np.arange(len(log))
        price, quality = log.cost(every, accepted), _quality(log, accepted)
        share = float(log.small_nanos.mean() / log.large_nanos.mean() + 1 - accepted.mean())
        note = (
            f"five folds: fitted and threshold chosen on four (the most aggressive that keeps within by their held-out "
            f"scores), told by the fifth; {1 - accepted.mean():.1%} escalated; "
            f"with every answer at the mean price {share:.1%}; by chance {_by_chance(log):.1%}"
        )
        yield judged(
            "MMLU-Pro, gemini flash to pro",
            f"cost <= {PRICE:.1%} at >= {QUALITY:.0%} quality",
            f"{price:.1%} at {quality:.1%}",
            self._quick or (price <= PRICE and quality >= QUALITY),
            note,
            cost=price,
            cost_at_mean_price=share,
            quality=quality,
            escalated=float(1 - accepted.mean()),
        )
        curve, marks = _curve(log, scores), {"chosen beforehand": [(price, quality)]}
        chance = [(log.small_nanos.sum() / log.large_nanos.sum(), log.small.mean() / log.large.mean()), (1.0, 1.0)]
        picture.draw(
            PICTURES / "cascade-gemini.svg",
            "gemini flash to pro on MMLU-Pro",
            "cost, of always-large",
            "quality, of always-large",
            {"cascade, every threshold": curve, "by chance": chance, **marks},
        )

    # --- what is certified

    def _certified(self) -> Iterator[Row]:
        curves: dict[str, picture.Curve] = {"target": [(1000, CERTIFIED_AT)]}
        named = {"gemini flash to pro, MMLU-Pro": self._mmlu_pro(FLASH, PRO)}
        if (logs.DATA / "ZeroEval").is_dir():
            named["4o-mini to 4o, ZeroEval"] = Log.of(logs.zeroeval(MINI, OMNI))
        for name, log in named.items():
            for how, known in (("score learnt from them", 0), (f"score known, of {LABELS} older pairs", LABELS)):
                found = certify(log, 20 if self._quick else 300, MOST_PAIRS, known)
                yield from _certificates(f"{name}: {how}", found, known)
                costs = [(mark, cost) for mark in MARKS if (cost := found.mean(mark)) is not None]
                curves[f"{name.split(',')[1].strip()}: {how.split(',')[0]}"] = costs
        picture.draw(
            PICTURES / "cascade-certified.svg",
            f"certified: loses at most {EPSILON:.0%}, {1 - DELTA:.0%} sure",
            "judged pairs",
            "cost, of always-large",
            curves,
            share=False,
        )

    def _llama(self) -> Iterator[Row]:
        log = self._mmlu_pro(*LLAMAS)
        found = certify(log, 10 if self._quick else 30, MOST_PAIRS)
        ok = found.statuses == {"infeasible": found.orders}
        told = ", ".join(f"{status} {count}" for status, count in sorted(found.statuses.items()))
        note = f"{found.orders} orders; the small one costs {log.small_nanos.sum() / log.large_nanos.sum():.0%}"
        yield judged("MMLU-Pro, Llama 8B to 70B", "infeasible", told, ok, note, **found.statuses)

    def _drift(self) -> Iterator[Row]:
        log = self._mmlu_pro(FLASH, PRO)
        for points, most in ((0.0, 20_000), (0.05, 40_000), (0.10, 40_000)):
            seen = _drifts(log, points, most, 2 if self._quick else 8)
            came = [one for one in seen if one is not None]
            if not came:
                yield Row(f"drift of {100 * points:.0f} points", "", "nothing was certified before", "-")
                continue
            after = statistics.mean(one.after for one in came)
            broke = [one for one in came if one.after > EPSILON + 0.005]
            pairs = sorted(one.pairs for one in came if one.pairs is not None)
            hours = sorted(one.drawn * DRAWN_S / 3600 for one in came if one.drawn is not None)
            told = f"{len(pairs)} of {len(came)} reverted" + (
                f", after {pairs[0]} to {pairs[-1]} pairs, median {pairs[len(pairs) // 2]}; {hours[0]:.1f} to "
                f"{hours[-1]:.1f} hours, median {hours[len(hours) // 2]:.1f}"
                if pairs
                else ""
            )
            note = (
                f"loss of what is accepted {statistics.mean(one.before for one in came):.2%} before, {after:.2%} after"
                f"; hours at ten requests a second and a shadow_rate of 10 %"
            )
            kept = all(one.pairs is not None for one in broke)
            target = "reverted" if points else f"within {RARELY:,} requests one at most"
            ok = kept and len(pairs) == len(came) if points else len(pairs) * RARELY <= most * len(came)
            yield judged(f"drift: small worse by {100 * points:.0f} points", target, told, ok, note, pairs=pairs)

    # --- routing and validators

    def _routellm(self) -> Iterator[Row]:
        log = Log.of(logs.routellm_mmlu())
        seen = []
        for draw in range(1 if self._quick else 2):
            drawn = np.random.default_rng(draw).permutation(len(log))
            score, rest = log.fitted(drawn[:LABELS]), drawn[LABELS:]
            scores = log.scored(score)[rest]
            seen.append(apgr(scores, log.small[rest], log.large[rest]))
        mean = statistics.mean(seen)
        told = " ".join(f"{each:.3f}" for each in seen)
        yield judged(f"RouteLLM MMLU, {LABELS} labels", "APGR > .61", f"{mean:.3f}", mean > 0.61, told, apgr=seen)
        pairs = logs.routellm_gsm8k()
        for name, answers, least in (("with the answer", True, 0.70), ("prompt alone", False, 0.0)):
            seen = _folded(Log.of(pairs, answers), 2 if answers and not self._quick else 1)
            mean = statistics.mean(seen)
            yield judged(
                f"RouteLLM GSM8K, {name}",
                "APGR > .70" if least else "",
                f"{mean:.3f}",
                mean > least,
                f"ten folds of 1,187 labels, all told together: {' '.join(f'{each:.3f}' for each in seen)}",
                apgr=seen,
            )

    def _zeroeval(self) -> Iterator[Row]:
        for model in (
            "gpt-4o-mini-2024-07-18",
            "gpt-4o-2024-08-06",
            "claude-3-haiku-20240307",
            "claude-3-5-haiku-20241022",
        ):
            read = [
                (logs.parsed(one["output"]), logs.right(task, logs.parsed(one["output"]).answer, one["answer"]))
                for task in logs.TASKS
                for one in logs.lines(f"ZeroEval/{task}.{model}.jsonl.gz")
            ]
            total = len(read)
            lenient, bare, valid = (
                sum(test(said) for said, _ in read) / total
                for test in (lambda said: said.answer is not None, lambda said: said.bare, lambda said: said.strict)
            )
            right = sum(good for _, good in read) / total
            right_strict = sum(good for said, good in read if said.strict) / total
            yield judged(
                f"ZeroEval JSON, {model}",
                "lenient >= strict",
                f"readable {lenient:.1%}, valid in its fence {valid:.1%}, valid as it stands {bare:.1%}",
                lenient >= valid >= bare,
                f"right {right:.1%}, where only valid ones are judged {right_strict:.1%}; of right answers the strict "
                f"gate stops {1 - right_strict / right:.1%}; logged without JSON mode: a fence or words around each",
                bare=bare,
                strict=valid,
                lenient=lenient,
                right=right,
                right_strict=right_strict,
            )

    def _latency(self) -> Iterator[Row]:
        log = self._mmlu_pro(FLASH, PRO)
        score = log.fitted(np.arange(1000))
        times = decided(self._pairs[FLASH, PRO][:2000], score, score.certificate(EPSILON, DELTA))
        clock, processor = [each.clock for each in times], [each.processor for each in times]
        wall, busy = [sum(each) for each in clock], [sum(each) for each in processor]
        told = f"p50 {percentile(wall, 50):.3f} ms, p99 {percentile(wall, 99):.3f} ms"
        note = (
            f"features of prompt and answer, score and threshold, of MMLU-Pro's questions; of processor time "
            f"p50 {percentile(busy, 50):.3f} ms, p99 {percentile(busy, 99):.3f} ms"
        )
        yield judged("decision on the request path", "p50 <= 0.3 ms", told, percentile(wall, 50) <= 0.3, note)
        turns = [turn for each in clock for turn in each]
        longest, over = max(turns), sum(turn > 1 for turn in turns)
        told = f"longest {longest:.3f} ms, {over} of {len(turns):,} over 1 ms"
        most = max(turn for each in processor for turn in each)
        note = f"by the clock, both turns that a decision takes, prompt and answer; of processor time {most:.3f} ms"
        yield judged("turns of the loop for it", "none over 1 ms", told, not over, note, longest=longest)


def _certificates(name: str, found: Certified, known: int) -> Iterator[Row]:
    share, hindsight = found.violations / found.orders, statistics.mean(found.hindsight)
    first = f"first certificate after {statistics.median(found.first):.0f} pairs" if found.first else "never certified"
    told = f"{share:.1%} of {found.orders} orders"
    note = f"{first}; {found.statuses}"
    target = f"violations <= {DELTA:.0%}"
    yield judged(f"certified, {name}", target, told, share <= DELTA, note, violations=found.violations)
    costs = {mark: cost for mark in MARKS if (cost := found.mean(mark)) is not None}
    said = ", ".join(f"{mark}: {cost:.1%}" for mark, cost in costs.items())
    counted = "as the target's, which takes a score as given" if known else "harsher: pairs that it is fitted to count"
    note = f"{counted}; best in hindsight {hindsight:.1%}; orders end after {statistics.median(found.ended):.0f} pairs"
    raw = {str(mark): cost for mark, cost in costs.items()}
    target = f"< {CERTIFIED_AT:.1%} at 1,000"
    yield judged(f"cost by judged pairs, {name}", target, said, costs.get(1000, 1.0) < CERTIFIED_AT, note, costs=raw)


def _drifts(log: Log, points: float, most: int, count: int) -> list[Drifted | None]:
    return spread(lambda seed: drift(log, seed, points, most), range(count))


def _folded(log: Log, times: int) -> list[float]:
    def told(draw: int) -> tuple[np.ndarray, np.ndarray]:
        folds = np.random.default_rng(draw // 10).permutation(len(log)) % 10
        mine = np.flatnonzero(folds == draw % 10)
        score = log.fitted(np.flatnonzero(folds != draw % 10))
        return mine, log.scored(score)[mine]

    seen, found = [], spread(told, range(10 * times))
    for draw in range(times):
        scores = np.empty(len(log))
        for mine, each in found[10 * draw : 10 * draw + 10]:
            scores[mine] = each
        seen.append(apgr(scores, log.small, log.large))
    return seen


def _said(row: Row) -> str:
    """A row as it comes."""
    verdict = {"pass": "ok", "FAIL": "MISSED"}.get(row.verdict, row.verdict)
    return f"{row.number} | {row.target} | {row.seen} | {verdict} | {row.note}"


def _quality(log: Log, accepted: np.ndarray) -> float:
    return float(np.where(accepted, log.small, log.large).mean() / log.large.mean())


def _by_chance(log: Log) -> float:
    """What sending a share to the small one costs, drawn without looking, at the same quality."""
    share = (1 - QUALITY) * log.large.mean() / (log.large.mean() - log.small.mean())
    return float(1 - share * (1 - log.small_nanos.sum() / log.large_nanos.sum()))


def _curve(log: Log, scores: np.ndarray) -> list[tuple[float, float]]:
    every = np.arange(len(log))
    cuts = np.quantile(scores, np.linspace(0, 1, 41))
    return [(log.cost(every, scores <= cut), _quality(log, scores <= cut)) for cut in cuts]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.cascade", description=__doc__.split("\n\n", 1)[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="fewer pairs, draws and orders; not to be quoted")
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {', '.join(GROUPS)}")
    asked = parser.parse_args(arguments)
    groups = asked.only.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"unknown groups: {', '.join(sorted(unknown))}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    facts = runner.introduced(console)
    found = list(Bench(console, asked.quick).run(groups))
    return runner.finished("cascade", found, facts, console)


if __name__ == "__main__":
    sys.exit(main())
