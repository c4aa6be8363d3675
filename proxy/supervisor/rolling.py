"""A rolling restart: every worker is replaced, one after the other, while requests go on.

Rules: one at a time, so that at most one process more than usual runs, and none fewer accepts. A successor that can't
get ready ends the restart: the workers not replaced yet go on as they are, and the reason stays to be told.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from proxy.logs import Log
from proxy.supervisor.fleet import Fleet


class Rolling:
    """The restarts of one supervisor. `problem` is the last one's, empty where it went well."""

    def __init__(self, log: Log) -> None:
        self.running = False
        self.problem = ""
        self.replaced = 0  # in all restarts
        self._log = log

    def begin(self, fleet: Fleet, timeout_s: float, idle_s: float) -> Coroutine[Any, Any, None]:
        """The work of replacing all, which counts as running from now on. Not while another one does."""
        assert not self.running
        self.running, self.problem = True, ""
        return self._run(fleet, timeout_s, idle_s)

    async def _run(self, fleet: Fleet, timeout_s: float, idle_s: float) -> None:
        self._log.info("restarting", workers=fleet.size)
        try:
            for index in range(fleet.size):
                if reason := await fleet.replace(index, timeout_s, idle_s):
                    self.problem = reason
                    self._log.error("restart given up; the other workers go on", worker=index, reason=reason)
                    return
                self.replaced += 1
            self._log.info("restarted", workers=fleet.size)
        except Exception as error:
            self.problem = repr(error)
            raise
        finally:
            self.running = False
