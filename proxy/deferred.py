"""Attempts that are made by other means than a request of their own: a line of a provider's batch.

They are reserved and settled like any other (`proxy.dispatch`): guards are asked when the work is accepted, and told
when its answer is here; the journal has both records by then. Between the two nothing is in the journal, so that who
takes over after a crash settles once, under the same exchange's id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from proxy.accounting import Elsewhere
from proxy.body import Body
from proxy.dialects import Reading, read_unary
from proxy.dialects.request import capped, facts
from proxy.dispatch import Dispatch
from proxy.exchange import Attempt, Exchange, Forward, Request, Settle
from proxy.response import Response
from proxy.upstreams.deployment import Deployment

BATCH: Final = "batch"


class Grounds(msgspec.Struct, frozen=True):
    """What a policy that works in the background stands on: the layers inside of it, and the end of the chain.

    `join` has access and budgets, as far as they stand outside of it, look at a request that comes later than its
    client did: their guards join its exchange, or they refuse it.
    """

    forward: Forward
    join: Forward
    dispatch: Dispatch
    on_end: Callable[[Exchange], object]


def deployments(dispatch: Dispatch, model: str) -> list[Deployment]:
    """Where a model is served. Raises WeirError 404."""
    return list(dispatch.routes.route(model).deployments)


def sent(dispatch: Dispatch, request: Request, deployment: Deployment) -> Awaitable[Response]:
    """A request to a given deployment."""
    return dispatch.send(request, deployment)


async def reached(request: Request) -> Response:
    """Ends a chain of layers that are asked and nothing more (`Grounds.join`)."""
    return Response(204, [], b"")


async def admitted(
    dispatch: Dispatch, request: Request, deployment: Deployment
) -> tuple[Attempt, list[Settle], Request]:
    """Asks the exchange's guards for what will be done later, at the price of doing it now. Raises what they raise.

    The request is as they admitted it: with the cap that they set.
    """
    attempt = _attempt(dispatch, request, deployment, None)
    settles: list[Settle] = []
    try:
        for guard in request.exchange.guards:
            settle = await guard(attempt)
            if settle is not None:
                settles.append(settle)
    except BaseException:
        release(attempt, settles)
        raise
    return attempt, settles, _capped(request, attempt.output_cap)


def _capped(request: Request, cap: int | None) -> Request:
    body, name = request.body, request.endpoint.name
    if cap is None or not isinstance(body, Body) or cap == facts(name, body).output_cap:
        return request
    return request.using(fields=capped(name, body, cap))


def release(attempt: Attempt | None, settles: list[Settle], request: Request | None = None) -> None:
    """Tells guards that nothing was sent."""
    if attempt is None and request is not None:
        attempt = Attempt(request.exchange, request, 1, "", "", request.model or "")
    if attempt is None:
        return
    attempt.outcome, attempt.nanodollars, attempt.settled = "failed", 0, True
    for settle in reversed(settles):
        settle(attempt)


def settled(
    dispatch: Dispatch, request: Request, deployment: Deployment, body: bytes, settles: list[Settle]
) -> Attempt:
    """An answer is here: it is priced on the tier `batch`, journalled, and the guards are told."""
    attempt = _attempt(dispatch, request, deployment, BATCH)
    exchange, endpoint = request.exchange, request.endpoint
    exchange.attempts.append(attempt)
    dispatch.books.reserve(attempt, settles)
    attempt.status = 200
    try:
        reading = read_unary(endpoint.dialect or "", body)
    except ValueError:
        reading = Reading()
    reading.service_tier = BATCH
    dispatch.books.settle(Elsewhere(attempt, deployment.upstream, reading, settles), "complete", None)
    return attempt


def standard_nanodollars(attempt: Attempt) -> int | None:
    """What a settled attempt would have cost on the standard tier."""
    if attempt.card is None or attempt.usage is None:
        return None
    return attempt.card.cost(attempt.usage, None)


def _attempt(dispatch: Dispatch, request: Request, deployment: Deployment, tier: str | None) -> Attempt:
    exchange, upstream = request.exchange, deployment.upstream
    model = deployment.model or request.model or ""
    attempt = Attempt(exchange, request, len(exchange.attempts) + 1, deployment.label, upstream.name, model, tier=tier)
    if isinstance(request.body, Body):
        asked = facts(request.endpoint.name, request.body)
        attempt.n, attempt.output_cap = asked.n, asked.output_cap
    dispatch.books.estimate(attempt, upstream)
    return attempt
