"""`mode: observe`: a policy decides as it would, its decisions are recorded, and nothing changes.

How: the policy is run against a copy of the exchange whose guards are asked but can't refuse, and a `forward` that
sends the client's own request whatever the policy wanted to send, once. What the policy would have done otherwise
(answered itself, refused, called again, rewritten) is noted as `would_…`. The answer that the client gets is the one
to its own request, untouched by edits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Guard, Request, Settle
from proxy.response import Edit, Response, Tap


class _Again(Exception):  # noqa: N818
    """The policy called `forward` a second time; what would follow isn't known, so observing ends there."""


class _Shell(Response):
    """The answer as the observed policy sees it: it can look, not change, and not close."""

    __slots__ = ("_real",)

    def __init__(self, real: Response) -> None:
        super().__init__(real.status, list(real.headers))
        self._real = real
        if real.whole:
            self._body = real._body

    def tap(self, fn: Tap) -> None:
        self._real.tap(fn)

    def edit(self, fn: Edit) -> None:
        """Not applied."""

    async def read(self) -> bytes:
        return await self._real.read()

    async def aclose(self) -> None:
        """The client still reads it."""


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
        real, name, source = self.real, self.policy, self.source

        async def harmless(attempt: Attempt) -> Settle | None:
            cap = attempt.output_cap
            try:
                return await fn(attempt)
            except WeirError as error:
                real.note(name, "would_refuse", source, status=error.status, code=error.code)
                return None
            finally:
                if attempt.output_cap != cap:
                    real.note(name, "would_cap", source, output_cap=attempt.output_cap)
                    attempt.output_cap = cap

        real.guard(harmless)

    def defer(self, fn: Callable[[Exchange], object]) -> None:
        self.real.defer(fn)


async def observed(
    policy: Callable[[Request, Forward], Awaitable[Response]],
    name: str,
    source: str,
    request: Request,
    forward: Forward,
) -> Response:
    """Runs a policy without letting it change anything."""
    exchange = request.exchange
    answer: Response | None = None

    async def once(asked: Request) -> Response:
        nonlocal answer
        if answer is not None:
            raise _Again
        if asked.model != request.model:
            exchange.note(name, "would_use_model", source, model=asked.model)
        elif asked.body is not request.body or asked.headers is not request.headers:
            exchange.note(name, "would_rewrite", source)
        answer = await forward(request)
        return _Shell(answer)

    watched: Any = _Watched.of(exchange, name, source)
    try:
        given = await policy(request.using(exchange=watched), once)
    except _Again:
        exchange.note(name, "would_forward_again", source)
    except WeirError as error:
        if answer is None and not isinstance(error.__cause__, _Again):
            exchange.note(name, "would_refuse", source, status=error.status, code=error.code)
    else:
        if not isinstance(given, _Shell):
            exchange.note(name, "would_answer", source, status=given.status)
            await given.aclose()
    return answer if answer is not None else await forward(request)
