"""`python -m bench.faults_matrix [--seeds N] [--only TEXT] [--no-sdk]`: what clients see of every fault of an upstream.

All 35 rows of the table of faults on every metered endpoint, streamed or not. Exit status 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from bench.faults_matrix import run

SUITE = "faults"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.faults_matrix", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many times everything is asked, each time otherwise")
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", help="kinds and faults whose name contains this")
    parser.add_argument("--no-sdk", action="store_true", help="without what the OpenAI SDK sees")
    asked = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
    seeds = range(asked.first, asked.first + (2 if asked.quick else asked.seeds))
    told = run.everything(seeds, asked.only, sdk=not asked.no_sdk, say=lambda line: console.print(line, markup=False))
    run.show(told, console)
    return int(bool(told.wrong))


if __name__ == "__main__":
    sys.exit(main())
