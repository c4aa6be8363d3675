"""`weir simulate`, and the simulator that `weir serve --demo` runs beside itself.

Rules: the simulator is a process of its own with a command line of its own; nothing of it is written here again. The
one of a demo is in a session of its own, so that Ctrl-C drains the proxy before its upstream goes, and ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import typer

from proxy.cli.output import CommandError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--no-help-of-ours"]}
LIKE_A_PROVIDER = ("--ttft", "lognormal(250ms, 0.3)", "--per-token", "exponential(10ms)")
STOP_S = 2.0
_PR_SET_PDEATHSIG = 1


def simulate(context: typer.Context) -> None:
    """Run a made-up provider. OpenAI-compatible, with any latency and any fault; its own --help says how."""
    from proxy.simulator.__main__ import main

    raise typer.Exit(main(context.args))


@contextlib.contextmanager
def simulator() -> Iterator[str]:
    """A simulator for as long as the block runs; its base URL."""
    command = [sys.executable, "-m", "proxy.simulator", "--port", "0", *LIKE_A_PROVIDER]
    process = subprocess.Popen(  # noqa: S603  # our own module, our own words
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_bound(),
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise CommandError("the simulator did not start")
        yield found[0]
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _bound() -> Callable[[], object] | None:
    """What lets the child end even if this process is killed; Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
