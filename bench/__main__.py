"""`python -m bench [overhead] [--quick] [--only unary,p50,…] [--subject weir]`; the guard is `python -m bench.guard`.

Exit status: 0 when no number missed its target, 1 when one did, 2 for usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from rich.console import Console

from bench import machine, processes, runner
from bench.overhead import rounds, run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=["overhead"], default="overhead")
    parser.add_argument("--quick", action="store_true", help="short rounds, for development; not to be quoted")
    parser.add_argument("--only", default=",".join(run.GROUPS), help=f"of {', '.join(run.GROUPS)}")
    parser.add_argument("--subject", choices=sorted(run.SUBJECTS), default="weir", help="whom the targets are for")
    asked = parser.parse_args(arguments)
    groups = asked.only.split(",")
    if unknown := set(groups) - set(run.GROUPS):
        parser.error(f"unknown numbers: {', '.join(sorted(unknown))}")
    return overhead(rounds.QUICK if asked.quick else rounds.FULL, groups, asked.subject)


def overhead(plan: rounds.Plan, groups: list[str], subject: str) -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    facts, cores = runner.introduced(console), machine.cores()
    console.print(f"proxy on core {cores.proxy}, load and upstreams on core {cores.load}")
    if cores.shared:
        console.print("only one core is allowed to this process: the load disturbs what it measures")
    os.sched_setaffinity(0, {cores.load})
    facts["priority"] = str(processes.PRIORITY) if processes.prefer() else "usual"
    start = time.monotonic()
    rows = run.run(
        plan,
        groups,
        subject,
        cores,
        lambda row: console.print(f"  {row.verdict:4} {row.number}: {row.seen}", markup=False),
    )
    console.print(
        f"\n{time.monotonic() - start:.0f} s{'; quick rounds: not to be quoted' if plan is rounds.QUICK else ''}"
    )
    facts["cores"] = f"proxy {cores.proxy}, load and upstreams {cores.load}"
    facts["plan"] = "quick" if plan is rounds.QUICK else "full"
    return runner.finished("overhead", rows, facts, console)


if __name__ == "__main__":
    sys.exit(main())
