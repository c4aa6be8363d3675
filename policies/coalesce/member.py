"""Those who share a call: one exchange each, its stream, and what all of them are told.

Rules: a member knows its own place and nothing of the others; `Shared` gives it what comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from proxy.errors import OVERLOADED, WeirError
from proxy.exchange import Exchange, Request
from proxy.faults import cut_short
from proxy.response import Response
from proxy.stream import Stream

if TYPE_CHECKING:
    from policies.coalesce.shared import Shared

_AT_ONCE: Final = 256  # lists of events that a lagging member is given in one go


class Member:
    """One exchange that waits for a shared call, or reads its answer (proxy.stream.Flow)."""

    __slots__ = ("at", "exchange", "lagging", "paused", "ready", "request", "shared", "stream")

    def __init__(self, shared: Shared, request: Request) -> None:
        self.shared = shared
        self.request = request
        self.exchange = request.exchange
        self.ready: asyncio.Future[Response | None] | None = None  # None: lead the call that `shared` now is
        self.stream: Stream | None = None
        self.paused = False
        self.lagging = False  # it isn't given what comes, but what is kept from `at` on
        self.at = 0

    def __repr__(self) -> str:
        return f"<Member {self.exchange.id}{f' lagging at {self.at}' if self.lagging else ''}>"

    # --- its reader's side

    def pause(self) -> None:
        """It reads slowly: what comes is left where it is."""
        if not self.lagging:
            self.lagging, self.at = True, self.shared.told
        self.paused = True
        self.shared.paced()

    def resume(self) -> None:
        """It reads again."""
        self.paused = False
        self.catch_up()
        self.shared.paced()

    def cancel(self) -> None:
        """It has left."""
        self.drop(cut_short("it was given up", "exchange_ended"))

    def drop(self, error: WeirError) -> None:
        """It gets no more: who still reads is told why."""
        stream, self.stream = self.stream, None
        self.shared.leave(self)
        if stream is not None:
            stream.end(error)

    # ---

    def catch_up(self) -> None:
        """Gives it what is kept, as far as it takes that."""
        shared = self.shared
        while self.lagging and not self.paused and self.stream is not None:
            events = shared.kept_from(self.at, _AT_ONCE)
            if not events:
                self.lagging = False
                if shared.ended:
                    shared.finish(self)
                return
            self.at = min(self.at + _AT_ONCE, shared.told)
            self.stream.feed([event for some in events for event in some])


def resolve(member: Member, response: Response | None) -> None:
    if member.ready is not None and not member.ready.done():
        member.ready.set_result(response)


def reject(members: Sequence[Member], error: WeirError) -> None:
    """Tells each of its own failure."""
    for member in members:
        if member.ready is not None and not member.ready.done():
            member.ready.set_exception(copied(error))


def copied(error: WeirError) -> WeirError:
    """The same failure for another exchange, which made no attempt of its own."""
    return WeirError(
        error.status,
        error.message,
        type=error.type,
        code=error.code,
        param=error.param,
        headers=error.headers,
    )


def same_terms(client: Exchange, background: Exchange) -> None:
    """What outer layers have set for the request holds for the call, but its deadline."""
    background.bypass = client.bypass
    background.heads = client.heads
    background.avoid = client.avoid
    background.stateful_allowed = client.stateful_allowed
    background.total_s, background.ttft_s, background.idle_s = client.total_s, client.ttft_s, client.idle_s


def too_slow(bytes: int) -> WeirError:
    """What is told to who lags too far behind."""
    message = f"This answer is shared, and was read more than {bytes} bytes slower than others read it."
    return WeirError(502, message, type=OVERLOADED, code="coalesce_too_slow")
