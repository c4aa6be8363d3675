"""Work off the request path that a worker holds, and ends with itself: a task that nobody holds may be collected while
it runs, and nobody would hear that it failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from proxy.errors import WeirError
from proxy.metrics import Metrics

T = TypeVar("T")


class Tasks:
    """The background tasks of one worker."""

    def __init__(self, metrics: Metrics, log: Callable[..., object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._log = log
        self.running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A background task that this worker holds and ends."""
        task = self._loop.create_task(work, name=name)
        self.running.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if task.cancelled() or (error := task.exception()) is None or isinstance(error, (WeirError, TimeoutError)):
            return
        self._log("error", "background_failed", task=task.get_name(), error=whereabouts(error))
        self._metrics.count("background_failures")

    async def aclose(self, patience_s: float = 0.0) -> None:
        """Ends them, after waiting a little for them to end by themselves."""
        if self.running and patience_s:
            await asyncio.wait(self.running, timeout=patience_s)
        for task in list(self.running):
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


def whereabouts(error: BaseException) -> str:
    """What an error was and where it was raised, without its text, which may hold what must not be logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "?" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}: {where}"
