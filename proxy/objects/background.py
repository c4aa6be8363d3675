"""Responses that go on at the upstream after their request was answered (`background: true`): followed to their end.

Rules:
1. The answer to such a request tells no usage: what it costs is known at the first terminal read of the object. So its
   attempt is settled at nothing, and in the same turn another one is reserved, of an exchange of kind `background`,
   with the same holds: what was reserved stays so until the usage is known.
2. The proxy reads the object itself, less and less often, whether or not its client comes back; a read by the client
   has it look at once. However often it is read, it is settled once.
3. What can't be read any more, or isn't over within a day, counts as estimated; so it does when the worker ends. A
   worker that dies leaves it `reserved` in the journal, from which it is settled.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

import msgspec

from proxy.accounting import Account, Books, Elsewhere
from proxy.dialects import Reading, read_unary
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Request, Settle
from proxy.response import Outcome, Response
from proxy.upstreams import Deployment, Flight, Routes

KIND: Final = "background"
FIRST_S, LAST_S, LONGER = 1.0, 30.0, 1.5
LONGEST_S: Final = 86_400.0
_FAILURES: Final = 10  # reads in a row, beyond which nobody will tell
_STORED: Final = "/v1/responses/"
_OVER: Final = frozenset(("completed", "failed", "incomplete", "cancelled"))
_NOT_SENT: Final = frozenset((b"accept-encoding", b"expect", b"idempotency-key"))


class _Told(msgspec.Struct):
    status: str | None = None


_status: Final = msgspec.json.Decoder(_Told).decode


class Dispatch(Protocol):
    """The end of the chain, as far as it is needed here."""

    books: Books

    @property
    def routes(self) -> Routes:
        """Where models are served."""

    async def send(self, request: Request, deployment: Deployment) -> Response:
        """One attempt at a given deployment."""


class Followings:
    """The responses that go on, of all attempts of one configuration (`proxy.accounting.GoesOn`)."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._by_id: dict[str, Following] = {}

    def takes(self, answer: Account, outcome: str) -> bool:
        """Settles what goes on at the upstream when it is over. False where it doesn't, or that can't be promised."""
        spawn = answer.attempt.exchange.spawn
        if spawn is None or not _goes_on(answer, outcome):
            return False
        try:
            following = Following(self._dispatch, answer)
        except WeirError:  # the journal can't be written
            return False
        self._by_id[following.id] = following
        spawn(self._follow(following), f"following {following.id}")
        return True

    async def _follow(self, following: Following) -> None:
        try:
            await following.run()
        finally:
            self._by_id.pop(following.id, None)

    def read(self, attempt: Attempt) -> None:
        """A stored response was read; whoever follows it looks at once, unless it was he."""
        found = self._by_id.get(attempt.request.path.removeprefix(_STORED).partition("/")[0])
        if found is not None and attempt.exchange.kind != KIND:
            found.read.set()


def _goes_on(answer: Account, outcome: str) -> bool:
    """Whether the work that was asked for isn't over with this answer. Asked where an answer tells no usage."""
    request, exchange = answer.attempt.request, answer.attempt.exchange
    if outcome != "complete" or request.endpoint.name != "responses" or exchange.kind == KIND:
        return False
    return bool(answer.status < 300 and answer.reading.response_id and request.field("background") is True)


class Following:
    """One response that goes on."""

    def __init__(self, dispatch: Dispatch, answer: Account) -> None:
        self._dispatch = dispatch
        self._attempt = answer.attempt
        self._upstream = answer.upstream
        self.id = str(answer.reading.response_id)
        self.read = asyncio.Event()  # somebody else has read it
        flights = [one for one in answer.settles if isinstance(getattr(one, "__self__", None), Flight)]
        self._settles: list[Settle] = [one for one in answer.settles if one not in flights]
        given = answer.attempt.exchange
        self._exchange = Exchange(
            given.identity,
            endpoint=given.endpoint,
            asked=given.asked,
            deadline=asyncio.get_running_loop().time() + LONGEST_S,
            tags=given.tags,
            kind=KIND,
            parent=given.id,
            spawn=given.spawn,
            on_end=given.on_end,
        )
        self._exchange.stateful_allowed = True
        self._request = answer.attempt.request.using(exchange=self._exchange)
        self._child = self._reserved()
        answer.settles = flights

    def __repr__(self) -> str:
        return f"<Following {self.id}>"

    def _reserved(self) -> Attempt:
        """The attempt that stands for the work, from here on. Raises WeirError where it can't be written down."""
        first = self._attempt
        names = ("deployment", "upstream", "model", "n", "output_cap", "tier", "estimated_input_tokens")
        more = ("estimate_nanodollars", "reserved_tokens", "holds", "card", "others")
        same = {name: getattr(first, name) for name in (*names, *more)}
        child = Attempt(self._exchange, self._request, 1, **same)
        self._dispatch.books.reserve(child, [])
        self._exchange.attempts.append(child)
        return child

    async def run(self) -> None:
        """Until it is over."""
        reading, status = Reading(), 0
        try:
            reading, status = await self._ended()
        finally:
            self._settle(reading, status)
            self._exchange.end(Outcome.COMPLETE if status else Outcome.ABORTED)

    async def _ended(self) -> tuple[Reading, int]:
        """What its first terminal read says; nothing where there is none."""
        wait_s, failures = FIRST_S, 0
        ends_s = asyncio.get_running_loop().time() + LONGEST_S
        while failures < _FAILURES and asyncio.get_running_loop().time() < ends_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self.read.wait()
            self.read.clear()
            wait_s = min(LAST_S, wait_s * LONGER)
            try:
                found = await self._look()
            except WeirError:
                failures += 1
                continue
            if found is None:  # it was deleted
                break
            failures = 0
            if found[1]:
                return found
        return Reading(), 0

    async def _look(self) -> tuple[Reading, int] | None:
        """What it says now, and its status code once it is over; None where it isn't there any more."""
        path = _STORED + self.id
        endpoint = endpoint_of("GET", path)
        routes = self._dispatch.routes.route(self._request.model).deployments
        deployment = next((one for one in routes if one.label == self._attempt.deployment), None)
        if endpoint is None or deployment is None:
            return None
        headers = [
            pair for pair in self._request.headers if pair[0] not in _NOT_SENT and not pair[0].startswith(b"content-")
        ]
        asked = Request(self._exchange, endpoint, "GET", path.encode(), path, headers, b"", self._request.model)
        response = await self._dispatch.send(asked, deployment)
        try:
            body = await response.read()
        finally:
            await response.aclose()
        if response.status in (404, 410):
            return None
        try:
            status = _status(body).status
            reading = read_unary("responses", body)
        except (ValueError, msgspec.DecodeError):
            status, reading = None, Reading()
        return reading, response.status if status in _OVER or reading.usage is not None else 0

    def _settle(self, reading: Reading, status: int) -> None:
        child = self._child
        child.status = status or None
        account = Elsewhere(child, self._upstream, reading, self._settles, status)
        self._dispatch.books.settle(account, "complete" if status else "aborted", None)
