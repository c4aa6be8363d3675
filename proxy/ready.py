"""Answers that are ready: what a request with these bytes gets again, without a task, an exchange or the chain.

Rules:
1. A policy offers an answer (a cache does, of what it gave). It counts only where that policy is the outermost layer
   and applies to every request: then nothing else of the chain would have had a say.
2. A request is known again by all of its bytes, head and body: so it is the same client's, with the same wishes. That
   holds in the generation in which it was learnt, and as long as the policy still has the answer.
3. The text, and the record of the journal, are what the ordinary way makes of an exchange whose id and times are marks;
   what time changes in the text is set anew each second. Ids and times are each request's own.
4. The record is written before the answer leaves. Where that fails, requests take the ordinary way until it works.
5. Bounded in bytes, by what the policies allow. What was learnt first leaves, unless it was just given: where more
   comes again and again than there is room for, a part of it stays, which is better than all of it by turns.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from proxy import told
from proxy.accounting import ended
from proxy.body import Body
from proxy.cors import CorsRules
from proxy.errors import WeirError
from proxy.exchange import Exchange, Request, new_id
from proxy.journal import Journal
from proxy.metrics import QUICK_S, Metrics, Repeats
from proxy.response import Outcome, Response
from proxy.wire.call import head_of, http_date
from proxy.wire.headers import Headers

if TYPE_CHECKING:
    from proxy.generation import Generations

_AROUND_BYTES: Final = 3072  # the structures around the texts
_LARGEST_BYTES: Final = 64 * 1024
_JUST_S: Final = 2
_LOOKED_AT: Final = 4  # that may have to leave
# They stand for an id and for times. Chosen anew by each process, so that no answer can be made to hold them.
_ID: Final = secrets.token_hex(len(new_id()) // 2)
_AT: Final = 10**18 + secrets.randbelow(10**18)
_TOOK: Final = 3 * 10**18 + secrets.randbelow(10**18)
_MARKS: Final = re.compile(f"{_ID}|{_AT}|{_TOOK}")
_COMPLETE: Final = Outcome.COMPLETE
_SAYS_MORE: Final = frozenset((b"content-encoding", b"idempotency-key"))  # more to know than the bytes

Whose = tuple[str, bytes, tuple[tuple[bytes, bytes], ...]]


class Again(msgspec.Struct, frozen=True):
    """An answer that may be given again: before `until_s` by `wall`, and as long as `find(key)` is `made`.

    `answer` gives it to an exchange, which it tells what was decided and saved, with marks for what time changes;
    `changing(now_s)` says what stands in place of them now.
    """

    policy: object
    key: str
    find: Callable[[str], object]
    made: object
    until_s: float
    wall: Callable[[], float]
    answer: Callable[[Exchange], Response | None]
    changing: Callable[[float], Sequence[tuple[bytes, bytes]]]


class Ready:
    """One answer to one head and body."""

    # fmt: off
    __slots__ = (
        "_body", "_date", "_head", "again", "raw", "record", "repeats", "second", "size_bytes", "text", "whose",
    )
    # fmt: on

    def __init__(self, again: Again, raw: bytes, whose: Whose) -> None:
        self.again = again
        self.raw = raw
        self.whose = whose
        self.second = -1  # for which its text holds
        self.size_bytes = 0
        self.text: list[bytes] = []  # cut where the id stands
        self.record: list[str] = []  # cut where the time, the id and the time that it took stand
        self.repeats: Repeats  # set by whoever keeps it
        self._head = self._body = self._date = b""  # with marks

    def make(
        self, like: Exchange, asked: Headers, cors: CorsRules | None, policies_hash: str, worker: int
    ) -> Exchange | None:
        """Makes what stays, as the answer to an exchange like this one would be, and gives that; None if it can't."""
        exchange = Exchange(like.identity, like.endpoint, like.asked, tags=like.tags, id=_ID)
        response = self.again.answer(exchange)
        if response is None:
            return None
        exchange.status, exchange.outcome, exchange.ended = response.status, _COMPLETE, True
        headers = told.fields(response.headers, exchange, cors, asked, True)
        self._head, self._body, self._date = head_of(response.status, headers), response.held(), http_date()
        record = msgspec.json.encode(ended(exchange, worker, policies_hash, _AT, _TOOK)).decode()
        self.record = _MARKS.split(record)
        self.size_bytes = len(self.raw) + 2 * (len(self._head) + len(self._body)) + len(record) + _AROUND_BYTES
        return exchange if len(self.record) == 4 else None

    def renew(self, now_s: float) -> None:
        """Makes its text, as of now."""
        self.second = int(now_s)
        head = self._head.replace(b"\r\ndate: %b\r\n" % self._date, b"\r\ndate: %b\r\n" % http_date())
        body = self._body
        for mark, value in self.again.changing(now_s):
            head, body = head.replace(mark, value), body.replace(mark, value)
        text = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
        self.text = text.split(_ID.encode())


class Answers:
    """One worker's."""

    def __init__(self, journal: Journal, metrics: Metrics, generations: Callable[[], Generations]) -> None:
        self.limit_bytes = 0
        self._journal = journal
        self._metrics = metrics
        self._generations = generations
        self._version: object = None
        self._bytes = 0
        self._known: dict[Ready, None] = {}
        self._heads: dict[Whose, dict[bytes, Ready]] = {}
        self._unwritten = False

    def __repr__(self) -> str:
        return f"<Answers {len(self._known)}, {self._bytes} of {self.limit_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._known)

    # --- learning

    def allow(self, more_bytes: int) -> None:
        """A policy allows so much more; less, where it ends."""
        self.limit_bytes += more_bytes
        self._trim()

    def offer(self, request: Request, again: Again) -> None:
        """A policy would answer this request like that again."""
        body, heads, generations = request.body, request.exchange.heads, self._generations()
        now = generations.now
        if heads is None or heads.headers is not request.headers or heads.version is not generations.version:
            return
        if type(body) is not Body or now.chain.outermost is not again.policy:
            return
        if self._version is not generations.version:
            self._forget(generations.version)
        whose = request.method, request.target, tuple(request.headers)
        shelf = self._heads.get(whose)
        if shelf is None or body.raw not in shelf:
            if any(name in _SAYS_MORE for name, _ in request.headers) or not self._room(again.wall()):
                return
            ready, like = Ready(again, body.raw, whose), request.exchange
            hash_, worker = now.configuration.policy_hash, self._journal.worker
            self._learn(ready, ready.make(like, request.headers, now.cors, hash_, worker))
            shelf = self._heads.get(whose)
        heads.ready = shelf

    def _learn(self, ready: Ready, seen: Exchange | None) -> None:
        if seen is None or ready.size_bytes > min(_LARGEST_BYTES, self.limit_bytes):
            return
        ready.repeats = self._metrics.repeats(
            (seen.endpoint, self._metrics.model_label(seen.asked), seen.status, _COMPLETE.value),
            [(decision.policy, decision.action) for decision in seen.decisions],
            [(saving.policy, saving.known, saving.nanodollars) for saving in seen.savings],
        )
        ready.renew(ready.again.wall())
        self._known[ready] = None
        self._heads.setdefault(ready.whose, {})[ready.raw] = ready
        self._bytes += ready.size_bytes
        self._trim()

    def _room(self, now_s: float) -> bool:
        """Whether there is room for one more, or was made."""
        for _ in range(_LOOKED_AT):
            if self._bytes + min(_LARGEST_BYTES, self.limit_bytes // 4) <= self.limit_bytes:
                return True
            ready = next(iter(self._known), None)
            if ready is None:
                return False
            if ready.second < now_s - _JUST_S:
                self._drop(ready)
            else:
                self._known[ready] = self._known.pop(ready)
        return False

    def _trim(self) -> None:
        while self._bytes > self.limit_bytes:
            self._drop(next(iter(self._known)))

    def _drop(self, ready: Ready) -> None:
        if self._known.pop(ready, ready) is None:
            self._bytes -= ready.size_bytes
            shelf = self._heads[ready.whose]
            del shelf[ready.raw]
            if not shelf:
                del self._heads[ready.whose]

    def _forget(self, version: object) -> None:
        """What was learnt counts no longer."""
        self._version, self._bytes = version, 0
        self._known.clear()
        self._heads.clear()

    # --- giving

    def give(self, ready: Ready) -> bytes | None:
        """The whole answer, accounted for; None where the ordinary way has to be taken."""
        began_ns, again, journal = time.perf_counter_ns(), ready.again, self._journal
        now_s = again.wall()
        if again.find(again.key) is not again.made or now_s >= again.until_s:
            self._drop(ready)
            return None
        if ready.second != int(now_s):
            ready.renew(now_s)
        id = new_id()
        if len(id) != len(_ID) or (self._unwritten and not self._written()):
            return None
        start, before_id, before_took, end = ready.record
        repeats = ready.repeats
        took_ns = time.perf_counter_ns() - began_ns
        took_s = took_ns / 1e9
        if not repeats.n:
            self._metrics.repeated(repeats)
        repeats.n += 1
        repeats.seconds += took_s
        if took_s >= QUICK_S:  # something else had the processor
            repeats.slow.append(took_s)
        line = f"{start}{time.time_ns()}{before_id}{id}{before_took}{took_ns}{end}"
        journal.append(msgspec.Raw(line.encode()))  # type: ignore[arg-type]  # what it would make of the record
        try:
            journal.flush()
        except WeirError:
            self._unwritten = True
            self._metrics.count("journal_write_failures")
        return id.encode().join(ready.text)

    def _written(self) -> bool:
        """Whether the journal has now what it couldn't take before."""
        try:
            self._journal.flush()
        except WeirError:
            return False
        self._unwritten = False
        return True
