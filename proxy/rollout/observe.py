"""`mode: observe`: a policy decides as it would, its decisions are recorded, and nothing changes.

How: the policy runs beside the exchange, on a view of it whose guards are asked but can't refuse, delay or shorten, and
with a `forward` that sends the client's own request, once, whatever the policy wanted to send. What it would have done
otherwise (answered itself, refused, called again, rewritten) is noted as `would_…`.

Rules:
1. The client gets the answer to its own request, unedited, as soon as it comes: what the policy still does after its
   `forward` returned (reading the answer to its end, asking a judge) goes on in the background.
2. The policy sees the answer by taps, which change and delay nothing. It sees all of it if it asks before it first
   waits for anything else.
3. The upstream is called no more often than without the policy, also where the policy fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Guard, Request, Settle
from proxy.response import Edit, Outcome, Response, Tap
from proxy.stream import Stream
from proxy.wire.sse import Event

GUARD_S: Final = 0.005  # a guard that hasn't admitted by then would have made the request wait


class _Again(Exception):  # noqa: N818
    """The policy called `forward` a second time; what would follow isn't known, so observing ends there."""


class _Missed(Exception):  # noqa: N818
    """The policy wants to read an answer that has gone by."""


class _Shell(Response):
    """The answer as the observed policy sees it: it can look, not change, and not close."""

    __slots__ = ("_copy", "_real", "_watch")

    def __init__(self, real: Response, watch: _Watch) -> None:
        super().__init__(real.status, list(real.headers), real._body or b"")
        self._real = real
        self._watch = watch
        self._copy: Stream | None = None
        if not real.whole:
            self._body = None

    def tap(self, fn: Tap) -> None:
        self._real.tap(fn)

    def edit(self, fn: Edit) -> None:
        """Not applied."""

    @property
    def stream(self) -> Stream | None:
        """None: there is one stream, and it is the client's."""
        return None

    async def read(self) -> bytes:
        if self._body is None:
            self._body = b"".join([piece async for piece in self])
        return self._body

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._body is None and self._copy is None:
            if self._watch.released:
                raise _Missed
            self._copy = Stream(_Nowhere(), limit_bytes=1 << 62)
            self._real.tap(self._copied)
        return self._pieces()

    def _copied(self, seen: Event | Outcome) -> None:
        assert self._copy is not None
        if isinstance(seen, Event):
            self._copy.feed([seen])
        else:
            broken = WeirError(502, "The answer was not whole.") if seen is not Outcome.COMPLETE else None
            self._copy.end(broken)

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self._body is not None:
            yield self._body
            return
        assert self._copy is not None
        async for events in self._copy:
            for event in events:
                yield event.raw

    async def aclose(self) -> None:
        """The client still reads it."""


class _Nowhere:
    """The source of a copy: it can't be paused or cancelled."""

    def pause(self) -> None:
        """The client's pace is what counts."""

    resume = cancel = pause


class _Watched(Exchange, eq=False):
    """The exchange, with guards that can't refuse. Everything else is the real one's."""

    real: Any = None
    policy: str = ""
    source: str = ""

    @classmethod
    def of(cls, real: Exchange, policy: str, source: str) -> _Watched:
        """A view of `real`. The lists are the same ones, so what is added to them is added to the real exchange."""
        fields = {field: getattr(real, field) for field in Exchange.__struct_fields__}
        return cls(**fields, real=real, policy=policy, source=source)

    def guard(self, fn: Guard) -> None:
        self.real.guard(_Harmless(fn, self.real, self.policy, self.source))

    def defer(self, fn: Callable[[Exchange], object]) -> None:
        self.real.defer(fn)


class _Harmless:
    """A guard that is asked, and told how the attempt ended, but decides nothing."""

    def __init__(self, guard: Guard, exchange: Exchange, policy: str, source: str) -> None:
        self._guard = guard
        self._exchange = exchange
        self._policy, self._source = policy, source

    async def __call__(self, attempt: Attempt) -> Settle | None:
        shown = msgspec.structs.replace(attempt)  # what it writes there has no effect
        asked = asyncio.get_running_loop().create_task(self._ask(shown), name="observed guard")
        done, _ = await asyncio.wait((asked,), timeout=GUARD_S)
        if not done:
            self._exchange.note(self._policy, "would_wait", self._source)
        elif shown.output_cap != attempt.output_cap:
            self._exchange.note(self._policy, "would_cap", self._source, output_cap=shown.output_cap)

        def settle(settled: Attempt) -> None:
            if not asked.done():
                asked.cancel()
            elif not asked.cancelled() and (wanted := asked.result()) is not None:
                wanted(settled)

        return settle

    async def _ask(self, attempt: Attempt) -> Settle | None:
        try:
            return await self._guard(attempt)
        except WeirError as error:
            self._exchange.note(self._policy, "would_refuse", self._source, status=error.status, code=error.code)
        except Exception as error:
            self._exchange.note(self._policy, "observe_failed", self._source, error=type(error).__name__)
        return None


class _Watch:
    """One exchange's pass through one observed policy."""

    def __init__(self, name: str, source: str, request: Request, forward: Forward) -> None:
        self._name, self._source = name, source
        self._request, self._forward = request, forward
        self._exchange = request.exchange
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.forwarded = False
        self.released = False  # the answer has gone to the client
        self._failure: BaseException | None = None

    def note(self, action: str, **numbers: Any) -> None:
        self._exchange.note(self._name, action, self._source, **numbers)

    async def run(self, policy: Callable[[Request, Forward], Awaitable[Response]]) -> None:
        """The policy's whole course."""
        watched: Any = _Watched.of(self._exchange, self._name, self._source)
        try:
            given = await policy(self._request.using(exchange=watched), self._once)
        except _Again:
            pass  # noted where it happened
        except WeirError as error:
            if error is not self._failure:
                self.note("would_refuse", status=error.status, code=error.code)
        except Exception as error:
            self.note("observe_failed", error=type(error).__name__)
        else:
            if not isinstance(given, _Shell):
                self.note("would_answer", status=given.status)
                await given.aclose()

    async def _once(self, asked: Request) -> Response:
        if self.forwarded:
            self.note("would_forward_again")
            raise _Again
        self.forwarded = True
        if asked.model != self._request.model:
            self.note("would_use_model", model=asked.model)
        elif asked.body is not self._request.body or asked.headers is not self._request.headers:
            self.note("would_rewrite")
        try:
            answer = await self._forward(self._request)
        except Exception as error:
            self._failure = error
            self.answer.set_exception(error)
            raise
        except BaseException:
            self.answer.cancel()
            raise
        self.answer.set_result(answer)
        return _Shell(answer, self)


async def observed(
    policy: Callable[[Request, Forward], Awaitable[Response]],
    name: str,
    source: str,
    request: Request,
    forward: Forward,
) -> Response:
    """Runs a policy without letting it change anything."""
    watch = _Watch(name, source, request, forward)
    spawn = request.exchange.spawn
    assert spawn is not None, "observing needs somebody to hold what goes on in the background"
    course = spawn(watch.run(policy), f"observe {name}")
    try:
        await asyncio.wait((course, watch.answer), return_when=asyncio.FIRST_COMPLETED)
    except BaseException:  # the client left
        course.cancel()
        await asyncio.wait((course,))
        watch.answer.cancel()
        raise
    if not watch.forwarded:
        return await forward(request)
    answer = await watch.answer
    watch.released = True
    return answer
