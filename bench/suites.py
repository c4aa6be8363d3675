"""`python -m bench.suites NAME [--list] [--only TEXT] [ARGS …]`: every benchmark that says that it belongs to a suite.

A benchmark belongs to a suite by a constant at the top of its module, `SUITE = "faults"`; it is found by looking, so
that a new one needs no list. Each runs as `python -m bench.MODULE ARGS`, one after another, in a process of its own;
the exit status is 0 when all of theirs were.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


def members(suite: str, root: Path = HERE) -> Iterator[str]:
    """The modules of a suite, by name; nothing is imported."""
    for path in sorted((*root.glob("*.py"), *root.glob("*/__main__.py"))):
        if _suite_of(path) == suite:
            name = path.parent.name if path.name == "__main__.py" and path.parent != root else path.stem
            yield f"{root.name}.{name}"


def _suite_of(path: Path) -> str | None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["SUITE"]:
            return str(ast.literal_eval(node.value))
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.suites", description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("--list", action="store_true", help="say which there are, and run nothing")
    parser.add_argument("--only", default="", help="those whose name contains this")
    asked, rest = parser.parse_known_args(arguments)
    chosen = [name for name in members(asked.suite) if asked.only in name]
    if not chosen:
        parser.error(f"no benchmark belongs to {asked.suite!r}")
    if asked.list:
        sys.stdout.write("\n".join(chosen) + "\n")
        return 0
    return run(chosen, rest)


def run(chosen: list[str], arguments: list[str]) -> int:
    failed = []
    for name in chosen:
        began = time.monotonic()
        sys.stdout.write(f"── {name}\n")
        sys.stdout.flush()
        status = subprocess.run([sys.executable, "-m", name, *arguments]).returncode
        sys.stdout.write(f"── {name}: {'passed' if not status else 'FAILED'}, {time.monotonic() - began:.0f} s\n")
        failed += [name] if status else []
    sys.stdout.write(f"{len(chosen) - len(failed)} of {len(chosen)} passed\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
