"""The cold process (`proxy.cold`) under the supervisor: told the settings, heard about the ledger.

Rules: it is there where a ledger is kept or traces are asked for. It isn't waited for: workers serve before it does,
and while it is away. What it counted in earlier lives counts on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from proxy import journal
from proxy.cold import Settings
from proxy.control import Channel
from proxy.ledger.accounts import Said
from proxy.ledger.facts import Counts, LedgerFacts, Report, facts
from proxy.ledger.keeping import Keep
from proxy.logs import Log
from proxy.supervisor.kept import Kept, Message

COLD: Final = (sys.executable, "-m", "proxy.cold")
STOP_S: Final = 6.0
"""A moment more than it gives itself to take in what is there."""


class ColdKeeper(Kept):
    """One for one home. First `keep`, in the end `stop`; `tell` at each reload, `facts` at any time."""

    def __init__(self, home: Path, settings: Settings, log: Log, command: Sequence[str] = COLD) -> None:
        super().__init__("cold process", command, log, stop_s=STOP_S, patient=True)
        self._home = home
        self._settings = settings
        self._report = Report()
        self._before = Counts()  # of lives that are over

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._settings.ledger) or self._settings.traces is not None

    def tell(self, accounts: Said, keep: Keep) -> None:
        """What the files say now."""
        changed = msgspec.structs.replace(self._settings, accounts=accounts, keep=keep)
        if changed != self._settings:
            self._settings = changed
            if self._channel is not None:
                self.begun(self._channel)

    def facts(self) -> LedgerFacts:
        """How the ledger stands."""
        if not self._settings.ledger:
            return LedgerFacts()
        return facts(self._home, replace(self._report, counts=self._before.plus(self._report.counts)))

    # --- as `Kept` asks

    def options(self) -> list[str]:
        """Where it works."""
        return ["--home", str(self._home)]

    def begun(self, channel: Channel) -> None:
        """It is told all, each time."""
        channel.send("settings", **msgspec.to_builtins(self._settings))

    def heard(self, message: Message) -> None:
        """How the ledger stands; of offsets those that moved."""
        if message["type"] == "ledger":
            said = msgspec.convert(message, Report)
            there = {one.name for one in journal.segments(self._home)}
            known = {name: at for name, at in self._report.offsets.items() if name in there}
            self._report = replace(said, offsets={**known, **said.offsets})

    def died(self, failures: int) -> None:
        """The ledger is behind until the next one tells. Spans of the meantime are sent by that."""
        self._before = self._before.plus(self._report.counts)
        self._report = replace(self._report, up=False, counts=Counts())
        if self._settings.traces is not None:
            self._settings = msgspec.structs.replace(self._settings, traces=journal.sizes(self._home))
