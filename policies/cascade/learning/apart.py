"""Fits in a process of its own: `python -m policies.cascade.learning.apart JOB`, what it is fitted to in, the fit out.

Rules:
1. A fit takes seconds of a processor. It is nobody's haste: the process has the lowest priority and one thread, so that
   workers come first, and it holds no worker's lock.
2. Where a process can't be started a thread does it; where it fails there is no fit this time. What it is given are
   features and vectors, no texts.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from proxy import scheduling

TIMEOUT_S: Final = 300.0
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Vectors(msgspec.Struct, frozen=True):
    """Unit vectors in half precision, one after the other, and how many clusters they are to be divided into."""

    count: int
    dimensions: int
    data: bytes


class Divided(msgspec.Struct, frozen=True):
    """Clusters: their centres in single precision, and the share of the vectors that each has."""

    centres: bytes
    shares: list[float]


Kept = tuple[bytes, float, int | None]  # packed features, the loss, what the large answer cost in nano-dollars


class Wanted(msgspec.Struct, frozen=True):
    """What a score is fitted to, and the loss that is to be proven of it."""

    examples: list[Kept]
    epsilon: float | None = None


async def fitted_apart(wanted: Wanted) -> bytes | None:
    """The bytes of a score; None where none could be made."""
    return await _apart("score", msgspec.msgpack.encode(wanted))


async def fitted_to_prompts_apart(state: bytes, words: bool) -> bytes | None:
    """The same, of prompts alone, from what is kept of a class of traffic (`Evidence.state`, packed)."""
    return await _apart("words" if words else "numbers", state)


async def clustered_apart(vectors: Vectors) -> Divided | None:
    """Vectors divided into clusters; None where that couldn't be done."""
    told = await _apart("clusters", msgspec.msgpack.encode(vectors))
    return None if told is None else msgspec.msgpack.decode(told, type=Divided)


async def _apart(job: str, given: bytes) -> bytes | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "policies.cascade.learning.apart", job),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
        )
    except OSError:
        return await asyncio.to_thread(_JOBS[job], given)
    scheduling.wait_for_everybody(process.pid)
    try:
        told, _ = await asyncio.wait_for(process.communicate(given), TIMEOUT_S)
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return None
        raise
    return told if process.returncode == 0 and told else None


# --- in that process


def _score(given: bytes) -> bytes | None:
    wanted = msgspec.msgpack.decode(given, type=Wanted)
    return _fitted(wanted.examples, wanted.epsilon)


def _words(given: bytes) -> bytes | None:
    return _fitted(_kept(given))


def _numbers(given: bytes) -> bytes | None:
    return _fitted(_kept(given), words=False)


def _kept(given: bytes) -> list[Kept]:
    try:
        return msgspec.msgpack.decode(given, type=Wanted).examples  # the rest of the state isn't looked at
    except msgspec.MsgspecError:
        return []  # another version's


def _fitted(examples: Sequence[Kept], epsilon: float | None = None, words: bool = True) -> bytes | None:
    from policies.cascade.learning.features import unpacked, wordless
    from policies.cascade.learning.score import Example, fit

    read = []
    try:
        for packed, loss, price in examples:
            features = unpacked(packed) if words else wordless(unpacked(packed))
            read.append(Example(features, (1 - loss) / 2, (1 + loss) / 2, price=price))
        return fit(read, epsilon).dumps()
    except ValueError:
        return None


def _clusters(given: bytes) -> bytes | None:
    import numpy as np

    from policies.cascade.learning.clustering import clustered

    told = msgspec.msgpack.decode(given, type=Vectors)
    vectors = np.frombuffer(told.data, np.float16).astype(np.float32).reshape(-1, told.dimensions)
    centres, shares = clustered(vectors, told.count)
    return msgspec.msgpack.encode(Divided(centres.astype(np.float32).tobytes(), shares))


_JOBS: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "score": _score,
    "words": _words,
    "numbers": _numbers,
    "clusters": _clusters,
}


def main() -> None:
    """What it is fitted to on stdin, the fit on stdout."""
    sys.stdout.buffer.write(_JOBS[sys.argv[1]](sys.stdin.buffer.read()) or b"")


if __name__ == "__main__":
    main()
