"""What dead workers held is closed by what their journals say, so that it neither leaks nor is forgotten.

Rules:
1. An owner is `<host>/<worker>/<boot>`; the boot is the time of its start, in nanoseconds, in hexadecimal. Only owners
   of this home's host are looked at: nobody else can read their journals.
2. Dead is who was started by this supervisor and has ended; and who was started before, once no segment of that worker
   that was begun before this supervisor is written to any more (writers hold a lock).
3. A hold of a dead worker has spent what its attempts cost (those that name it): settled ones what they were settled
   at, others what was estimated when they were sent, which under a hard budget is their worst case. So do settled ones
   whose usage nobody observed, unless they came to more; what wasn't billed costs nothing. What was told to the Store
   already is a lower bound. What no attempt names wasn't dispatched.
4. An estimate is written down as `settled` (outcome `aborted`, error `worker_died`) in a segment of writer `s0`, before
   the hold is closed. Both may be done twice: the journal is read again first, and a hold closes once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from proxy import journal
from proxy.ledger.spool import Segment, in_use, listing
from proxy.logs import Log
from proxy.state.protocol import Standing, StateLost, Store

RETRY_S: Final = 1.0
LOOK_S: Final = 5.0  # for the end of workers that an earlier supervisor left behind
SLACK_NS: Final = 60 * 10**9  # files' times are coarser than the clock, and clocks are set
WRITER: Final = "s0"
_RESERVED: Final = b'{"event":"reserved"'
_SETTLED: Final = b'{"event":"settled"'


class Sent(msgspec.Struct):
    """An attempt that was dispatched: of its `reserved` record what is needed here."""

    exchange: str
    attempt: int
    worker: int
    estimate: journal.Estimate
    holds: tuple[str, ...] = ()


class Came(msgspec.Struct):
    """What an attempt was settled at."""

    exchange: str
    attempt: int
    tokens: dict[str, int]
    nanodollars: int | None
    known: str
    usage: msgspec.Raw

    @property
    def unbilled(self) -> bool:
        """Nobody told any usage, and it cost nothing: never sent, or refused by the provider."""
        return self.nanodollars == 0 and bytes(self.usage) == b"null"


_sent: Final = msgspec.json.Decoder(Sent).decode
_came: Final = msgspec.json.Decoder(Came).decode
Key = tuple[str, int]


class Owner(msgspec.Struct, frozen=True):
    """One life of a worker."""

    host: str
    worker: int
    boot_ns: int

    def __str__(self) -> str:
        return f"{self.host}/{self.worker}/{self.boot_ns:x}"

    @classmethod
    def of(cls, name: str) -> Owner | None:
        """Read back; None if it isn't one of ours."""
        host, _, rest = name.partition("/")
        worker, _, boot = rest.partition("/")
        try:
            return cls(host, int(worker), int(boot, 16))
        except ValueError:
            return None


class Told(msgspec.Struct):
    """What the journal says of some holds' attempts."""

    sent: dict[Key, Sent] = {}
    came: dict[Key, Came] = {}

    def unsettled(self) -> list[Sent]:
        """Sent, and nobody knows what came of it."""
        return [sent for key, sent in self.sent.items() if key not in self.came]

    def spent(self, hold: Standing) -> list[int]:
        """What a hold has spent, part by part: no less than what it had told."""
        keys = [key for key, sent in self.sent.items() if hold.id in sent.holds]
        return [
            max(told, sum(self._amount(key, part.scope.key) for key in keys))
            for part, told in zip(hold.parts, hold.spent, strict=True)
        ]

    def _amount(self, key: Key, scope: str) -> int:
        """What an attempt counts for, in the unit of a scope."""
        came, unit = self.came.get(key), scope.partition(":")[0]
        if unit not in ("usd", "tok", "req") or (came is not None and came.unbilled):
            return 0  # what is in use at a time (`con`) is spent by nobody
        if unit == "req":
            return 1
        admitted = _estimate(self.sent[key].estimate, unit)
        if came is None:
            return admitted
        told = came.nanodollars if unit == "usd" else _tokens(came)
        return told if came.known == "observed" and told is not None else max(told or 0, admitted)


def _estimate(estimate: journal.Estimate, unit: str) -> int:
    """What admitted an attempt; under a hard budget its worst case."""
    if unit == "usd":
        return estimate.nanodollars or 0
    if estimate.tokens is not None:
        return estimate.tokens
    return estimate.input_tokens + estimate.n * (estimate.output_cap or 0)


def _tokens(came: Came) -> int:
    return came.tokens.get("input_tokens", 0) + came.tokens.get("output_tokens", 0)


def read(segments: Iterable[Segment], owner: Owner, holds: set[str]) -> Told:
    """What the segments say of the attempts that name these holds. Blocking."""
    told = Told()
    for segment in sorted(segments, key=lambda one: (one.writer == WRITER, one.started_ns)):
        if segment.writer not in (f"w{owner.worker}", WRITER):
            continue
        for payload in _since(segment, owner.boot_ns):
            if payload.startswith(_RESERVED):
                sent = _sent(payload)
                if not holds.isdisjoint(sent.holds):
                    told.sent[sent.exchange, sent.attempt] = sent
            elif payload.startswith(_SETTLED):
                came = _came(payload)
                if (came.exchange, came.attempt) in told.sent:
                    told.came.setdefault((came.exchange, came.attempt), came)
    return told


def _since(segment: Segment, at_ns: int) -> Iterator[bytes]:
    """The records of a segment, unless it was written last before then."""
    try:
        if segment.path.stat().st_mtime_ns >= at_ns - SLACK_NS:
            for _, payload in journal.frames(segment.path.read_bytes()):
                yield payload
    except FileNotFoundError:  # the ledger has taken it over meanwhile
        return


def write(home: Path, sent: Iterable[Sent], now_ns: int) -> None:
    """Settles attempts by their estimates, in a segment of their own. Blocking; on the disk when it returns."""
    data = b"".join(journal.frame(_estimated(one, now_ns)) for one in sent)
    if not data:
        return
    path = home / "journal" / f"{now_ns}{journal.IN_STEAD}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _estimated(sent: Sent, now_ns: int) -> journal.Settled:
    estimate = sent.estimate
    return journal.Settled(
        at=now_ns,
        exchange=sent.exchange,
        worker=sent.worker,
        attempt=sent.attempt,
        outcome="aborted",
        status=None,
        served=None,
        tier=None,
        usage=None,
        tokens={"input_tokens": estimate.input_tokens, "output_tokens": estimate.output_cap or 0},
        nanodollars=estimate.nanodollars,
        known="unpriced" if estimate.nanodollars is None else "estimated",
        cards="",
        ttft_ns=None,
        total_ns=0,
        upstream_request_id=None,
        error="worker_died",
    )


class Recovery:
    """Looks after the holds of one home's dead workers. `follow` until cancelled; `died` says that one has ended."""

    def __init__(self, home: Path, host: str, store: Store, log: Log, clock: Callable[[], int] = time.time_ns) -> None:
        self.closed = 0
        self._home = home
        self._host = host
        self._store = store
        self._log = log
        self._clock = clock
        self._began_ns = clock()
        self._living: set[str] = set()
        self._news = asyncio.Event()

    def begin(self, worker: int) -> str:
        """A new life of a worker: the owner of its holds."""
        owner = str(Owner(self._host, worker, self._clock()))
        self._living.add(owner)
        return owner

    def died(self, owner: str) -> None:
        """It has ended, and been waited for."""
        self._living.discard(owner)
        self._news.set()

    async def follow(self) -> None:
        """Closes what the dead leave behind, as they die."""
        while True:
            self._news.clear()
            pause_s = await self.look()
            try:
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def look(self) -> float | None:
        """One round; when the next is due, if nobody dies before."""
        try:
            standing = await self._store.standing(f"{self._host}/")
            held: dict[str, list[Standing]] = defaultdict(list)
            for hold in standing:
                if hold.owner not in self._living:
                    held[hold.owner].append(hold)
            left = [await self._settled(owner, holds) for owner, holds in held.items()]
        except (StateLost, OSError) as error:
            self._log.warning("holds of dead workers aren't closed yet", reason=repr(error))
            return RETRY_S
        return None if all(left) else LOOK_S

    async def _settled(self, name: str, holds: list[Standing]) -> bool:
        """Whether nothing of an owner is left standing."""
        owner = Owner.of(name)
        if owner is None:
            return True
        segments = await asyncio.to_thread(listing, self._home)
        if owner.boot_ns < self._began_ns and await asyncio.to_thread(self._may_live, owner, segments):
            return False
        told = await asyncio.to_thread(read, segments, owner, {hold.id for hold in holds})
        unsettled = told.unsettled()
        await asyncio.to_thread(write, self._home, unsettled, self._clock())
        for hold in holds:
            scopes = [part.scope for part in hold.parts]
            self.closed += await self._store.close(hold.id, told.spent(hold), scopes)
        self._log.warning("holds of a dead worker closed", owner=name, holds=len(holds), estimated=len(unsettled))
        return True

    def _may_live(self, owner: Owner, segments: list[Segment]) -> bool:
        """Whether a worker of an earlier supervisor still writes to its journal."""
        now_ns = self._clock()
        own = [one for one in segments if one.writer == f"w{owner.worker}" and one.started_ns < self._began_ns]
        return any(in_use(segment, now_ns) for segment in own)
