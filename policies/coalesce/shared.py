"""One call that several exchanges share: who waits for it, what has come of it, and how it ends.

Rules:
1. Every member gets the whole answer, or an end that it can see: what had come when it joined, then what follows.
2. No member holds others back: one that reads slowly is left at its place in what is kept (`Member.at`), and goes on
   from there. The upstream waits only while all do. What is kept for joining and lagging is bounded; who lags further
   behind than that is cut off, and told so.
3. The call ends when its last member leaves, and not before.
4. Taps and edits of inner layers see each event once, whoever reads it.

No I/O: events are handed in, streams and futures are what goes out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from policies.coalesce.member import Member, copied, resolve, too_slow
from policies.coalesce.shares import cost_of, equal_parts, saving
from proxy import told
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Request
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.headers import Headers
from proxy.wire.sse import Event


class Shared:
    """One call. `carrier` is the exchange that makes it: the leader's own, or a detached one."""

    __slots__ = (
        "_closed", "_dropped", "_error", "_holding", "_keep_bytes", "_kept", "_kept_bytes", "_open", "_policy",
        "_source", "again", "carrier", "deserted", "ended", "key", "leader", "like", "mark", "members", "over",
        "request", "task",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        like: int,
        policy: str,
        keep_bytes: int,
        closed: Callable[[Shared], None],
    ) -> None:
        self.request = request
        self.like = like
        self.key = ""
        self.carrier = request.exchange
        self.mark = len(request.exchange.attempts)  # attempts before that are none of this call's
        self.task: asyncio.Task[Any] | None = None  # that makes the call
        self.over: asyncio.Future[None] | None = None  # awaited where nobody reads at the carrier's own end
        self.again = 0  # how many led before
        self.leader: Member | None = None
        self.members: dict[Member, None] = {}  # in the order of joining, without the leader
        self.deserted = False  # its leader's client has left
        self.ended = False
        self._policy = policy
        self._keep_bytes = keep_bytes
        self._closed = closed  # called once no one can join any more
        self._open = True
        self._error: WeirError | None = None
        self._source: Response | None = None
        self._kept: list[list[Event]] = []
        self._kept_bytes = 0
        self._dropped = 0  # lists before `_kept`
        self._holding = False  # the upstream is paused

    def __repr__(self) -> str:
        state = "ended" if self.ended else "streaming" if self._source is not None else "waiting"
        return f"<Shared {state}, {len(self.members)} followers>"

    # --- who is in

    def join(self, request: Request) -> Member:
        """One more. Its `ready` resolves when there is something to read."""
        member = Member(self, request)
        member.ready = asyncio.get_running_loop().create_future()
        self.members[member] = None
        if self._source is not None:
            self._connect(member)
        return member

    def leave(self, member: Member) -> None:
        """One less. The last one ends the call."""
        if member is self.leader:
            self.leader = None
        elif member in self.members:
            del self.members[member]
        else:
            return
        if self.ended:
            return
        if not self.members and self.leader is None:
            self.close_joining()
            self._give_up()
        else:
            self.paced()

    def wanted(self) -> bool:
        """Asked when the client of the exchange that carries the call has left: whether others need it."""
        if self.ended or not self.members:
            return False
        self.deserted = True
        leader, self.leader = self.leader, None
        if leader is not None:
            leader.stream = None
        self.paced()
        return True

    def _give_up(self) -> None:
        if self.task is not None and (self.deserted or self.carrier.kind != "client"):
            self.task.cancel()
        elif self._source is not None and self._source.stream is not None:
            self._source.stream.close()

    def close_joining(self) -> None:
        """From now on nobody can join."""
        if self._open:
            self._open = False
            self._closed(self)

    # --- an answer in one piece

    def deliver(self, response: Response) -> None:
        """The answer has come whole: everybody gets it, and pays its share."""
        self.ended = True
        self.carrier.wanted = None
        self.close_joining()
        if not self.members:
            return
        body = response.held()
        shares = self._settle()
        for member in list(self.members):
            headers = self._headers(response.headers, shares.get(member))
            resolve(member, Response(response.status, headers, body))

    # --- an answer that streams

    def begin(self, response: Response) -> Response | None:
        """The answer has begun: everybody reads along. Returns the leader's copy, if the leader is to have one."""
        self._source = response
        lead: Response | None = None
        if self.carrier is self.request.exchange and not self.deserted:
            self.leader = Member(self, self.request)
            lead = self._copy(self.leader)
        else:
            self.over = asyncio.get_running_loop().create_future()
        for member in list(self.members):
            self._connect(member)
        return lead

    def _connect(self, member: Member) -> None:
        assert self._source is not None
        response = self._copy(member)
        response.headers = self._headers(self._source.headers, None)
        if self.told:
            member.lagging = True
            member.catch_up()
        resolve(member, response)

    def _copy(self, member: Member) -> Response:
        assert self._source is not None
        member.stream = Stream(member)
        member.exchange.open_answers.append(member)  # given up with the exchange, if nobody did before
        return Response(self._source.status, list(self._source.headers), member.stream)

    def events(self, events: list[Event]) -> None:
        """The next events (proxy.stream.Sink)."""
        source = self._source
        assert source is not None
        if not source.untouched:
            try:
                events = source.pass_through(events)
            except Exception as error:
                self._spoiled(error)
                return
            if not events:
                return
        self._kept.append(events)
        for event in events:
            self._kept_bytes += len(event.raw)
        if self.leader is not None and not self.leader.lagging and self.leader.stream is not None:
            self.leader.stream.feed(events)
        if self.members:
            for member in list(self.members):
                if not member.lagging and member.stream is not None:
                    member.stream.feed(events)
        if self._kept_bytes > self._keep_bytes:
            self._trim()

    def end(self, error: WeirError | None) -> None:
        """No more follows (proxy.stream.Sink)."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        assert self._source is not None
        self._source.end(Outcome.COMPLETE if error is None else Outcome.PARTIAL)
        self.close_joining()
        self._settle()
        for member in self._readers():
            if not member.lagging:
                self.finish(member)
        self.carrier.wanted = None
        if self.over is not None:
            if not self.over.done():
                self.over.set_result(None)
        elif self.deserted and self.task is not None:
            self.task.cancel()  # nobody reads at its other end

    def finish(self, member: Member) -> None:
        """A member has all: its stream ends."""
        stream, member.stream = member.stream, None
        self.members.pop(member, None)
        if stream is None:
            return
        assert self._source is not None
        follows = member is not self.leader and bool(self.attempts) and member.request.endpoint.metered
        if follows and self._error is None and self._source.is_event_stream:
            stream.feed([Event(told.last_words(member.exchange), None)])
        stream.end(None if self._error is None else copied(self._error))

    def _spoiled(self, error: Exception) -> None:
        """An edit of an inner layer failed. What it was to change must not pass unchanged."""
        assert self._source is not None and self._source.stream is not None
        self._source.stream.close()
        message = f"The proxy failed on this answer ({type(error).__name__})."
        self.end(WeirError(500, message, type="server_error", code="edit_failed"))

    # --- pace

    @property
    def told(self) -> int:
        """How many lists of events have come."""
        return self._dropped + len(self._kept)

    def kept_from(self, at: int, count: int) -> list[list[Event]]:
        """What came after the first `at` lists."""
        start = at - self._dropped
        return self._kept[start : start + count]

    def paced(self) -> None:
        """Somebody reads slower, or faster: the upstream waits while all do."""
        stream = None if self._source is None else self._source.stream
        if stream is None or self.ended:
            return
        hold = all(member.paused for member in self._readers())
        if hold != self._holding:
            self._holding = hold
            if hold:
                stream.pause()
            else:
                stream.resume()

    def _trim(self) -> None:
        """More is kept than may be: nobody can join any more, and who lags too far is cut off."""
        self.close_joining()
        while True:
            lagging = [member for member in self._readers() if member.lagging]
            least = min([member.at for member in lagging], default=self.told)
            for some in self._kept[: least - self._dropped]:
                self._kept_bytes -= sum([len(event.raw) for event in some])
            del self._kept[: least - self._dropped]
            self._dropped = least
            if self._kept_bytes <= self._keep_bytes or self._holding:
                return  # in the latter case the upstream waits: no more comes than was on its way
            for member in lagging:
                if member.at == least:
                    member.drop(too_slow(self._keep_bytes))

    def _readers(self) -> list[Member]:
        readers = list(self.members)
        return readers if self.leader is None else [self.leader, *readers]

    # --- money

    @property
    def attempts(self) -> list[Attempt]:
        """Those of this call."""
        return self.carrier.attempts[self.mark :]

    def _cost(self) -> int | None:
        return cost_of(self.attempts) if self.attempts else None

    def _settle(self) -> dict[Member, int]:
        """Everybody who is there pays its share. Empty where there is nothing to share, or no price is known."""
        if not self.members or not self.attempts:
            return {}
        members, cost = list(self.members), self._cost()
        if cost is None:
            for member in members:
                member.exchange.charge(None)
            return {}
        own = self.carrier is self.request.exchange
        payers = len(members) + (own and not self.deserted)
        parts = equal_parts(cost, payers)
        if own:
            first = 0 if self.deserted else parts.pop(0)
            self._pay(self.carrier, cost, first, payers, charged=first - cost, saves=not self.deserted)
        for member, part in zip(members, parts, strict=True):
            self._pay(member.exchange, cost, part, payers, charged=part)
        return dict(zip(members, parts, strict=True))

    def _pay(self, exchange: Exchange, cost: int, share: int, payers: int, *, charged: int, saves: bool = True) -> None:
        exchange.charge(charged)
        if payers == 1:
            return
        exchange.note(
            self._policy, "shared", call=self.carrier.id, by=payers, cost_nanodollars=cost, share_nanodollars=share
        )
        if saves and cost > share:
            exchange.save(saving(self._policy, cost, share, self.attempts))

    def _headers(self, headers: Headers, share: int | None) -> Headers:
        """What a follower is told: those of the answer, whose call it is, and where it is known, what it pays."""
        given = [*headers, (b"x-weir-coalesced", self.carrier.id.encode())]
        last = self.attempts[-1] if self.attempts else None
        if last is not None and last.model:
            given.append((b"x-weir-model", _printable(last.served or last.model)))
        if share is not None:
            given.append((b"x-weir-cost", b"%d.%09d" % divmod(share, 10**9)))
        return given


def _printable(text: str) -> bytes:
    return "".join([c if " " <= c <= "~" else "?" for c in text]).encode()
