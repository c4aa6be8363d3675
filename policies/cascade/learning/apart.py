"""Fits a score in a process of its own: `python -m policies.cascade.learning.apart`, examples in, score out.

Rules:
1. A fit takes seconds of a processor. It is nobody's haste: the process has the lowest priority and one thread, so that
   workers come first, and it holds no worker's lock.
2. Where a process can't be started a thread does it; where it fails there is no score this time. What it is given are
   features, no texts.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

TIMEOUT_S: Final = 300.0
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


async def fitted_apart(examples: Sequence[tuple[bytes, float]]) -> bytes | None:
    """The bytes of a score fitted to packed features and their losses; None where none could be made."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "policies.cascade.learning.apart"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
        )
    except OSError:
        return await asyncio.to_thread(fitted, examples)
    try:
        told, _ = await asyncio.wait_for(process.communicate(msgspec.msgpack.encode(list(examples))), TIMEOUT_S)
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return None
        raise
    return told if process.returncode == 0 and told else None


def fitted(examples: Sequence[tuple[bytes, float]]) -> bytes | None:
    """The same, here."""
    from policies.cascade.learning.features import unpacked
    from policies.cascade.learning.score import Example, fit

    try:
        return fit([Example(unpacked(packed), (1 - loss) / 2, (1 + loss) / 2) for packed, loss in examples]).dumps()
    except ValueError:
        return None


def main() -> None:
    """Examples on stdin, a score on stdout."""
    os.nice(19)
    examples = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[tuple[bytes, float]])
    sys.stdout.buffer.write(fitted(examples) or b"")


if __name__ == "__main__":
    main()
