"""Work that no request waits for: `python -m proxy.cold --home DIR --control FD`. Keeps the books, and sends traces.

Rules:
1. It gets the processor when nobody else wants it (decision 100): its supervisor starts it so. Nothing waits for it.
2. What it must know comes over the channel (`proxy.control`): the ledger's address, which may hold a password, is on no
   command line. What it logs and how the ledger stands go back; of offsets only those that moved.
3. It ends when told `stop`, having taken in what is there, and at once when its supervisor is gone. It may be killed at
   any moment, and needs nobody to end in order. A signal to the whole group is for the supervisor to act on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from proxy.control import Channel
from proxy.ledger.accounts import Said
from proxy.ledger.keeping import Bookkeeper, Keep

if TYPE_CHECKING:
    from proxy.tracing.export import Exporter


class Settings(msgspec.Struct, frozen=True):
    """What it is told, first and at each reload. `traces`: the sizes of the segments from which on spans are sent, None
    where none are. A reload changes `accounts` and `keep` only.
    """

    ledger: str = ""
    accounts: Said = Said()
    keep: Keep = Keep()
    traces: dict[str, int] | None = None


class Cold:
    """The work of one process, begun by the first settings."""

    def __init__(self, home: Path, channel: Channel) -> None:
        self._home = home
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._begun = False
        self._now = Settings()
        self._accounts = self._now.accounts.accounts()
        self._offsets: dict[str, int] = {}  # as told
        self._books: Bookkeeper | None = None
        self._traces: Exporter | None = None

    async def obey(self) -> None:
        """Until told to stop, or there is nobody any more."""
        async for message in self._channel:
            if message["type"] == "settings":
                self._adopt(msgspec.convert(message, Settings))
            elif message["type"] == "stop":
                await asyncio.gather(*(asyncio.to_thread(stop) for stop in self._stops()))
                self._tell()
                return

    def _adopt(self, settings: Settings) -> None:
        if settings.accounts != self._now.accounts:
            self._accounts = settings.accounts.accounts()
        self._now = settings
        if not self._begun:
            self._begun = True
            self._begin()
            self._channel.send("ready")

    def _begin(self) -> None:
        if self._now.ledger:
            self._books = Bookkeeper(
                self._home,
                self._now.ledger,
                lambda: (self._accounts, self._now.keep),
                log=self._log,
                told=lambda: self._loop.call_soon_threadsafe(self._tell),
            )
            self._books.start()
        if self._now.traces is not None:
            self._traces = self._exporter(self._now.traces)

    def _exporter(self, since: Mapping[str, int]) -> Exporter | None:
        from proxy.tracing import export

        try:
            exporter = export.exporter(self._home, self._log, since)
        except export.NoExporterError as error:
            self._log("warning", "traces aren't sent", {"hint": str(error)})
            return None
        exporter.start()
        return exporter

    def _stops(self) -> list[Callable[[], object]]:
        return [one.stop for one in (self._books, self._traces) if one is not None]

    def _log(self, level: str, event: str, fields: Mapping[str, Any] | None = None) -> None:
        self._loop.call_soon_threadsafe(lambda: self._channel.send("log", level=level, event=event, fields=fields))

    def _tell(self) -> None:
        if self._books is None:
            return
        report = self._books.report()
        moved = {name: at for name, at in report.offsets.items() if self._offsets.get(name) != at}
        if self._channel.send("ledger", **{**asdict(report), "offsets": moved}):
            self._offsets = report.offsets


async def _run(home: Path, control: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)
    channel = await Channel.open(socket.socket(fileno=control))
    await Cold(home, channel).obey()
    channel.close()
    await asyncio.sleep(0)


def main() -> None:
    """The process's entry point."""
    parser = argparse.ArgumentParser(prog="proxy.cold")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--control", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(_run(options.home, options.control))
    sys.stderr.flush()
    os._exit(0)  # a thread that waits for a database must not hold it up


if __name__ == "__main__":
    main()
