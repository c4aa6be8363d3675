"""Programs under test as processes of their own: started, waited for, and ended by their own process id.

Every wait is a poll with an end, and a process that ends too early fails with what it said.
"""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.children import at_our_end
from tests.patience import PATIENCE_S

GRACE_S = 20.0
Seen = TypeVar("Seen")


def until(look: Callable[[], Seen], within_s: float = PATIENCE_S, *, every_s: float = 0.02, what: str = "it") -> Seen:
    """Look until what is seen is true; fail after `within_s`, naming `what` and the last sight."""
    end = time.monotonic() + within_s
    while True:
        if seen := look():
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {within_s} s, last seen {seen!r}")
        time.sleep(every_s)


@contextmanager
def running(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process with its output in `log`, ended when the block ends: asked first, then killed."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            text=True,
            preexec_fn=at_our_end(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def alive(process: subprocess.Popen[str], log: Path) -> None:
    """Fail with the end of the log where the process is no more."""
    if process.poll() is not None:
        raise AssertionError(f"{process.args!r} ended with {process.returncode}:\n{log.read_text()[-4000:]}")


def answers(url: str) -> bool:
    """Whether a GET of this URL is answered by 200, now."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
