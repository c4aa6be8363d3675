"""`python -m tests.security.fuzz [TARGET …] [--seconds N]`: goes on fuzzing, a while for each target.

Guided by coverage where atheris is installed (`pip install 'weir-proxy[fuzz]'`), else by mutations of the corpus. Input
that breaks a promise is written to `tests/corpus/TARGET/found-…`, to be kept with the fix; `test_fuzzing.py` runs it
from then on. Exit status 1 when something was found.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tests.security.fuzzing import CORPUS, TARGETS, Target, corpus

LONGEST = 4096


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations; the clock's without it")
    parser.add_argument("--guided", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    targets = asked.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if asked.guided:
        return _by_atheris(targets[0], asked.seconds)
    seed = asked.seed if asked.seed is not None else time.time_ns() % 2**32
    found = [name for name in targets if not _one(name, asked.seconds / len(targets), seed)]
    sys.stdout.write(f"{len(targets) - len(found)} of {len(targets)} targets without a finding\n")
    return int(bool(found))


def _one(name: str, seconds: float, seed: int) -> bool:
    """Whether a target stood its time."""
    if importlib.util.find_spec("atheris") is None:
        runs, ok = mutated(name, TARGETS[name], seconds, seed)
        sys.stdout.write(f"{name}: {runs} inputs by mutation, seed {seed}{'' if ok else ': FOUND'}\n")
        return ok
    command = [sys.executable, "-m", "tests.security.fuzz", name, "--guided", "--seconds", str(max(1, int(seconds)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
    runs_line = next((line for line in done.stderr.splitlines() if line.startswith("Done ")), "stopped")
    sys.stdout.write(f"{name}: guided; {runs_line}\n")
    if done.returncode:
        sys.stdout.write(done.stderr[-3000:] + "\n")
    return done.returncode == 0


def _by_atheris(name: str, seconds: float) -> int:
    import atheris

    with tempfile.TemporaryDirectory(prefix="weir-corpus-") as scratch:
        options = [f"-max_total_time={int(seconds)}", f"-max_len={LONGEST}", "-rss_limit_mb=2048", "-timeout=25"]
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        options += [f"-artifact_prefix={CORPUS / name}/found-", "-verbosity=1", scratch, str(CORPUS / name)]
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *options], TARGETS[name])
        atheris.Fuzz()
    return 0


def mutated(name: str, target: Target, seconds: float, seed: int, most: int = 1 << 60) -> tuple[int, bool]:
    """Runs a target on changed inputs of its corpus; how many, and whether all were right."""
    random_ = random.Random(f"{seed} {name}")
    known = [data for _, data in corpus(name)] or [b""]
    end_s, runs = time.monotonic() + seconds, 0
    while time.monotonic() < end_s and runs < most:
        data = mutation(random_, known)
        runs += 1
        if not _stands(name, target, data):
            return runs, False
    return runs, True


def _stands(name: str, target: Target, data: bytes) -> bool:
    try:
        target(data)
    except Exception as error:
        path = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sys.stdout.write(f"{name}: {type(error).__name__}: {error}\n  kept as {path}\n")
        return False
    return True


def mutation(random_: random.Random, known: Sequence[bytes]) -> bytes:
    """One of the known inputs, changed in a few places."""
    data = bytearray(random_.choice(known))
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        random_.choice(_CHANGES)(random_, data, known)
    return bytes(data[:LONGEST])


def _place(random_: random.Random, data: bytearray) -> int:
    return random_.randint(0, len(data))


def _byte(random_: random.Random, data: bytearray, known: Sequence[bytes]) -> None:
    at = _place(random_, data)
    data[at : at + 1] = bytes([random_.randrange(256)])


def _telling(random_: random.Random, data: bytearray, known: Sequence[bytes]) -> None:
    at = _place(random_, data)
    data[at : at + random_.choice((0, 1))] = random_.choice(_TELLING)


def _cut(random_: random.Random, data: bytearray, known: Sequence[bytes]) -> None:
    at = _place(random_, data)
    del data[at : at + random_.choice((1, 2, 8, 64))]


def _repeat(random_: random.Random, data: bytearray, known: Sequence[bytes]) -> None:
    at = _place(random_, data)
    piece = data[at : at + random_.choice((1, 4, 16, 64))]
    data[at:at] = piece * random_.choice((1, 2, 8, 100))


def _splice(random_: random.Random, data: bytearray, known: Sequence[bytes]) -> None:
    other = random_.choice(known)
    at, there = _place(random_, data), random_.randint(0, len(other))
    data[at:] = other[there:]


_TELLING = (
    *(bytes([byte]) for byte in b"\x00\x01\t\n\r \"'\\{}[]:,;=-+.0179eE/&*#%$<>|~\x7f\x80\xc3\xff"),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"${KEY}",
    b"data: ",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\\ud800",
    b"1e999",
    b"9" * 30,
    b"null",
    b"\xff\xff\xff\x7f",
)
_CHANGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _byte,
    _telling,
    _telling,
    _cut,
    _repeat,
    _splice,
)

if __name__ == "__main__":
    sys.exit(main())
