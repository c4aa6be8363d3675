"""`python -m bench.guard [--counts-only] [--update] [--slow-down 20%] [--profile] [--subject weir]`.

Exit status: 0 when nothing exceeds its limit, 1 when something does, 2 for usage.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from pathlib import Path

from bench.guard import counts, dataplane, driver, limits, paired, slowdown


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.guard", description=__doc__)
    parser.add_argument("--counts-only", action="store_true", help="only the deterministic part")
    parser.add_argument("--no-instructions", action="store_true", help="don't run valgrind, even if it is installed")
    parser.add_argument("--update", action="store_true", help="record what is seen as the new limits")
    parser.add_argument(
        "--slow-down", type=_fraction, metavar="PERCENT", help="add this much work, to see the guard fail"
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of each scenario goes, judge nothing"
    )
    parser.add_argument("--advise", action="store_true", help="say how the p99 compares, judge only what is counted")
    parser.add_argument("--subject", choices=["weir", "aiohttp"], default="weir", help="whom the paired part judges")
    asked = parser.parse_args(arguments)
    if asked.profile:
        return _profile()
    if asked.update and asked.slow_down:
        parser.error("a slow-down can't be recorded as a limit")
    known, python = limits.load(), limits.this_python()
    with tempfile.TemporaryDirectory(prefix="weir-guard-") as name:
        dataplane.prepare(Path(name))
        seen = _counts(Path(name), asked.slow_down, instructions=not asked.no_instructions)
    if asked.update:
        known = known.updated(seen, python)
        limits.save(known)
        print(f"recorded for {python}: {limits.PATH.name}")
    failed = _report_counts(known.judge(seen, python), python)
    if not (asked.counts_only or asked.update or asked.slow_down):
        failed |= _report_paired(known, asked.subject) and not asked.advise
    print("guard: FAILED" if failed else "guard: passed")
    return int(failed)


def _fraction(text: str) -> float:
    return float(text.removesuffix("%")) / 100


def _counts(directory: Path, slow_down: float | None, *, instructions: bool) -> dict[str, counts.Counts]:
    plan = None
    if slow_down:
        base = counts.python_counts(directory)
        plan = slowdown.Plan(
            {
                one.name: slowdown.share_of(
                    base[one.name]["calls"], base[one.name]["c_calls"], counts.unit_ns(directory, one), slow_down
                )
                for one in driver.scenarios()
            }
        )
        print(f"slowed down by {slow_down:.0%}: {plan.encoded()}")
    seen = counts.python_counts(directory, plan)
    if not instructions or counts.valgrind() is None:
        print("instructions: skipped, " + ("not asked for" if not instructions else "valgrind is not installed"))
        return seen
    for name, more in counts.instruction_counts(directory, plan).items():
        seen[name].update(more)
    return seen


def _profile() -> int:
    with tempfile.TemporaryDirectory(prefix="weir-guard-") as name:
        dataplane.prepare(Path(name))
        for scenario in driver.scenarios():
            with driver.driving(Path(name), cached=scenario.cached) as send:
                driver.verify(scenario, send(scenario, scenario.warm_up))
                profile = cProfile.Profile()
                profile.runcall(send, scenario, scenario.requests)
            print(f"{scenario.name}: {scenario.requests * scenario.units} units")
            pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(40)
    return 0


def _report_counts(findings: list[limits.Finding], python: str) -> bool:
    for one in findings:
        limit = "not recorded" if one.limit is None else f"limit {one.limit:,.2f}"
        verdict = "FAIL" if one.exceeded else "ok" if one.limit is not None else "skip"
        print(f"{verdict:4}  {one.scenario:15} {one.count:16} {one.seen:>12,.2f}  {limit}")
    if all(one.limit is None for one in findings):
        print(f"no limits are recorded for {python}: the deterministic part judged nothing (record them by --update)")
    return any(one.exceeded for one in findings)


def _report_paired(known: limits.Limits, subject: str) -> bool:
    seen = paired.measure(subject)
    limit, interval = known.p99[seen.reference], seen.interval
    exceeded = interval.low > limit or seen.lost > 0
    print(
        f"{'FAIL' if exceeded else 'ok':4}  p99 at {seen.rate:.0f} requests/s: {interval.point:.2f}x {seen.reference}, "
        f"95 % interval {interval.low:.2f} to {interval.high:.2f}, limit {limit:.1f}; {seen.lost} requests lost; "
        f"{seen.again} turns taken again for the generator's own delay"
    )
    return exceeded


if __name__ == "__main__":
    sys.exit(main())
