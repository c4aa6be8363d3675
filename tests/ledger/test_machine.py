"""Written, dying, copied, taken in and closed in any order: each attempt counts once, to the nano-dollar."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Engine

from proxy.journal import Estimate
from proxy.ledger.closing import close, hash_of, month
from proxy.ledger.ingest import Ingest
from proxy.ledger.opening import LedgerError, engine_of, open_ledger
from proxy.ledger.verify import verify
from tests.ledger.steps import Clock, all_of, rows, spent
from tests.ledger.told import NOON, SECOND, Segment, ended, exchange_id, reserved, settled

URL = "sqlite:///ledger.db"
DAY = 24 * 3600 * SECOND
ESTIMATE = 1_000_000  # of each attempt; real costs are smaller, so sums tell the two apart


class Process:
    """A worker's process: its segment, its ids, what it has sent and not settled."""

    def __init__(self, home: Path, slot: int, number: int, started_ns: int) -> None:
        self.home, self.slot, self.prefix = home, slot, f"{number:012x}"
        self.segment = Segment(home, f"w{slot}", started_ns)
        self.sent: list[int] = []

    def goes_on(self, started_ns: int) -> None:
        """In a new segment."""
        self.segment.leave()
        self.segment = Segment(self.home, f"w{self.slot}", started_ns)


class Ledger(RuleBasedStateMachine):
    """Two slots of workers and one ledger, against a dictionary of what each attempt cost."""

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="weir-ledger-"))
        self.clock = Clock(NOON)
        self.engine: Engine = open_ledger(URL, self.home)
        self.ingest = Ingest(self.engine, self.home, clock=self.clock, grace_s=30)
        self.numbers = 0
        self.processes = [self._process(slot) for slot in range(2)]
        self.cost: dict[str, int] = {}  # of attempts whose settled record was written
        self.lost: set[str] = set()  # sent by processes that died
        self.month = 11
        self.frozen: dict[str, str] = {}

    def _process(self, slot: int) -> Process:
        self.numbers += 1
        return Process(self.home, slot, self.numbers, self._tick())

    def _tick(self) -> int:
        self.clock.now_ns += 2 * SECOND
        return self.clock.now_ns

    @rule(slot=st.integers(0, 1))
    def send(self, slot: int) -> None:
        self.numbers += 1
        process = self.processes[slot]
        process.sent.append(self.numbers)
        exchange = exchange_id(self.numbers, process.prefix)
        process.segment.write(reserved(exchange, self._tick(), estimate=Estimate(1, 1, ESTIMATE)))

    @rule(slot=st.integers(0, 1), cost=st.integers(0, 999))
    def settle(self, slot: int, cost: int) -> None:
        process = self.processes[slot]
        if process.sent:
            exchange = exchange_id(process.sent.pop(0), process.prefix)
            process.segment.write(settled(exchange, self._tick(), nanodollars=cost), ended(exchange, self._tick()))
            self.cost[exchange] = cost

    @rule(slot=st.integers(0, 1))
    def new_segment(self, slot: int) -> None:
        self.processes[slot].goes_on(self._tick())

    @rule(slot=st.integers(0, 1), torn=st.binary(max_size=20))
    def die(self, slot: int, torn: bytes) -> None:
        process = self.processes[slot]
        process.segment.write_bytes(torn)
        process.segment.leave()
        self.lost |= {exchange_id(number, process.prefix) for number in process.sent}
        self.processes[slot] = self._process(slot)

    @rule(slot=st.integers(0, 1))
    def copy(self, slot: int) -> None:
        path = self.processes[slot].segment.path
        shutil.copy(path, path.with_name(f"{self._tick()}-w{slot + 5}.journal"))

    @rule(batch_bytes=st.sampled_from((1, 3_000, 2**22)), again=st.booleans())
    def take(self, batch_bytes: int, again: bool) -> None:
        if again:
            self.ingest = Ingest(self.engine, self.home, clock=self.clock, grace_s=30, batch_bytes=batch_bytes)
        self._tick()
        self.ingest.step()

    @rule(seconds=st.sampled_from((31, 3600, 40 * 24 * 3600)))
    def wait(self, seconds: int) -> None:
        self.clock.now_ns += seconds * SECOND

    @precondition(lambda self: self.month < 40)
    @rule()
    def close_month(self) -> None:
        wanted = month(f"{2026 + (self.month - 1) // 12}-{(self.month - 1) % 12 + 1:02}")
        try:
            close(self.engine, wanted, self.clock.now_ns)
        except LedgerError:
            return
        self.month += 1
        with self.engine.connect() as db:
            self.frozen[wanted.name] = hash_of(db, wanted.first_quarter, wanted.end_quarter, wanted.name)

    @invariant()
    def closed_months_stay(self) -> None:
        with self.engine.connect() as db:
            for name, was in self.frozen.items():
                known = month(name)
                assert hash_of(db, known.first_quarter, known.end_quarter, name) == was

    def teardown(self) -> None:
        """In the end everything is in, once, and what died is estimated."""
        if not hasattr(self, "home"):
            return
        try:
            for process in self.processes:
                process.segment.leave()
                self.lost |= {exchange_id(number, process.prefix) for number in process.sent}
            for _ in range(2):
                self.clock.now_ns += 3600 * SECOND
                all_of(self.ingest)
            assert spent(self.engine) == sum(self.cost.values()) + len(self.lost) * ESTIMATE
            newest = {row.exchange: row for row in rows(self.engine) if row.entry != "reversal"}
            assert {name: row.nanodollars for name, row in newest.items()} == self.cost | dict.fromkeys(
                self.lost, ESTIMATE
            )
            assert {row.of_team for row in newest.values()} <= {"search"}
            assert verify(engine_of(URL, self.home, reading=True)).problems == []
        finally:
            self.engine.dispose()
            shutil.rmtree(self.home)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
