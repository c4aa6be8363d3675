"""The entry: run a proxy for this configuration until it is told to end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy import collecting
from proxy.logs import Log
from proxy.supervisor.banner import banner, targets
from proxy.supervisor.plan import Plan, loader, plan_of
from proxy.supervisor.service import WORKER, Supervisor

if TYPE_CHECKING:
    from proxy.config.configuration import Configuration


def run(
    configuration: Configuration,
    *,
    config_path: Path | None = None,
    read: Callable[[], Configuration] | None = None,
    target: str | None = None,
    command: Sequence[str] = WORKER,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status: 0, or 1 if it couldn't start or had to cut exchanges.

    `read` loads the configuration again at a reload; without it `config_path` is loaded, if there is one.
    `target` replaces the words of the banner for where requests go (`the built-in SIMULATOR`).
    """
    plan = plan_of(configuration)
    log = Log(plan.log_form, plan.log_level)

    def announce(addresses: Sequence[str]) -> None:
        if plan.log_form == "human" or sys.stdout.isatty():
            print(banner(configuration, address=addresses[0], target=target), flush=True)
        else:
            log.info("serving", forwards_to=target or targets(configuration), listen=list(addresses))

    return asyncio.run(_serve(plan, _reader(configuration, config_path, read), log, announce, command))


async def _serve(
    plan: Plan,
    read: Callable[[], Configuration],
    log: Log,
    announce: Callable[[Sequence[str]], None],
    command: Sequence[str],
) -> int:
    container = os.environ.get("WEIR_CONTAINER") == "1"
    collecting.settle()
    return await Supervisor(plan, loader(read), log=log, announce=announce, command=command, container=container).run()


def _reader(
    configuration: Configuration, path: Path | None, read: Callable[[], Configuration] | None
) -> Callable[[], Configuration]:
    if read is not None:
        return read
    if path is None:
        return lambda: configuration
    from proxy.config import load

    return lambda: load(path, os.environ)
