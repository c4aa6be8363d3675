"""`defer_to_batch`: requests that can wait are served for less.

- use: defer_to_batch
  default: 24h
  match: {tag: job=nightly}

A request says how long it can wait by `x-weir-deadline` (where the policy file honours that), or the policy does.
Minutes go by the tier `flex`, hours by the provider's batches: then the answer is a job, or, with `Prefer: wait`, is
waited for.

What lives here: the layer. `config.py` says which way a request goes, `flex.py` tries the tier, `engine.py` sees to
the course of jobs, `batching.py` to batches, `worklist.py` has the jobs and what each comes to, `held.py` what budgets
hold for them; `provider.py` speaks the Batch API, `operating.py` answers `weir jobs`.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from policies.defer_to_batch.config import Config, way
from policies.defer_to_batch.engine import Engine
from policies.defer_to_batch.flex import Flex
from policies.defer_to_batch.held import NoRoomError
from policies.defer_to_batch.operating import operate
from policies.defer_to_batch.worklist import Worklist
from proxy.body import Body
from proxy.chain import Services
from proxy.config import Order
from proxy.deferred import Grounds, admitted, deployments
from proxy.errors import WeirError
from proxy.exchange import Forward, Identity, Request
from proxy.intake import wishes
from proxy.jobs import Job, told
from proxy.pricing import provider_of
from proxy.response import Response
from proxy.state.protocol import StateLost
from proxy.upstreams.deployment import Deployment
from proxy.wire.headers import get

__all__ = ["ORDER", "STORE", "Config", "DeferToBatch", "build", "foretell", "operate"]

STORE = True
ORDER: Final = Order(
    outside=("hedge", "fallback", "retry"),
    inside=("allow", "budget", "ratelimit", "coalesce", "cache"),
    why="what is answered from a cache needn't wait, and a job is tried again by its own rules",
)
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*(\d{1,6}))?(?:$|[,;\s])")
_STEP_S: Final = 1.0


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    found = way(config, request, config.default, own_key=True)
    return {"now": "passes by", "flex": "goes by flex", "batch": "becomes a job, in a batch"}[found]


class DeferToBatch:
    """The layer."""

    def __init__(self, config: Config, services: Services, wall: Callable[[], float] = time.time) -> None:
        self._config, self._services, self._wall = config, services, wall
        self._name, self._source = services.name, services.source
        self._flex = Flex(services.name, services.source)
        self._stepping: asyncio.Task[None] | None = None
        self.engine: Engine | None = None
        if services.store is not None and config.batch and not services.observing:
            self.engine = Engine(Worklist(config, services, wall, self._over))

    def begin(self, grounds: Grounds) -> None:
        """Called when a chain with this layer comes into force, also again."""
        if self.engine is None:
            return
        self.engine.work.grounds = grounds
        if self._stepping is None:
            self._stepping = asyncio.get_running_loop().create_task(self._steps(), name="deferred jobs")

    async def _steps(self) -> None:
        assert self.engine is not None
        while True:
            await self.engine.step()
            await asyncio.sleep(_STEP_S)

    async def aclose(self) -> None:
        """Others take over what isn't over."""
        if self._stepping is not None:
            self._stepping.cancel()
        if self.engine is not None:
            await self.engine.aclose()

    async def __call__(self, request: Request, forward: Forward) -> Response:
        exchange = request.exchange
        if exchange.kind != "client":
            return await forward(request)
        said = self._said(request)
        wait_s = self._config.default if said is None else said
        if said is None and exchange.can_wait_s is not None:
            wait_s = max(wait_s or 0.0, exchange.can_wait_s)
        if wait_s is None:
            return await forward(request)
        place = self._place(request)
        going = way(self._config, request, wait_s, own_key=place is not None)
        if self._services.observing:
            if going != "now":
                exchange.note(self._name, "would_defer", self._source, way=going)
            return await forward(request)
        if going == "batch" and place is not None:
            return await self._deferred(request, forward, place, wait_s, asked=said is not None)
        if going == "flex":
            now = asyncio.get_running_loop().time()
            until = min(exchange.deadline, now + wait_s) - self._config.flex_margin
            return await self._flex(request, forward, until)
        return await forward(request)

    def _said(self, request: Request) -> float | None:
        if get(request.headers, b"x-weir-deadline") is None:
            return None
        return wishes(request.headers, self._services.configuration, {}).deadline_s

    def _place(self, request: Request) -> Deployment | None:
        """Where its batch would run: at a provider that has batches, by a key of ours."""
        engine = self.engine
        if engine is None or engine.work.grounds is None or not isinstance(request.body, Body) or request.model is None:
            return None
        for one in deployments(engine.work.grounds.dispatch, request.model):
            upstream = one.upstream
            if upstream.own_key and (upstream.provider or provider_of(upstream.url)) == "openai":
                return one
        return None

    async def _deferred(
        self, request: Request, forward: Forward, place: Deployment, wait_s: float, *, asked: bool
    ) -> Response:
        engine, exchange, now = self.engine, request.exchange, self._wall()
        assert engine is not None and engine.work.grounds is not None and isinstance(request.body, Body)
        attempt, settles, capped = await admitted(engine.work.grounds.dispatch, request, place)
        assert isinstance(capped.body, Body)
        job = Job(
            f"job_{int(now):08x}{secrets.token_hex(12)}",
            exchange.identity,
            exchange.tags,
            request.endpoint.name,
            request.path,
            request.model or "",
            capped.body.raw,
            place.label,
            now,
            now + wait_s,
            engine.work.owner,
            exchange.id,
        )
        try:
            await engine.accept(job, attempt, settles)
        except (StateLost, NoRoomError, ValueError) as error:  # lost, or too large to keep
            exchange.note(self._name, "not_kept", self._source, error=type(error).__name__)
            return await forward(request)
        exchange.note(self._name, "deferred", self._source, job=job.id, deadline_s=wait_s)
        patience_s = _patience(request, asked)
        if patience_s is not None:
            loop = asyncio.get_running_loop()
            until = min(loop.time() + patience_s, exchange.deadline)
            done = await engine.work.wait(job, until)
            if done is not None:
                return _answer(done)
        return _accepted(job)

    # --- what clients ask of jobs

    async def jobs(self, identity: Identity, method: str, id: str) -> dict[str, Any] | None:
        """`GET` and `DELETE /weir/jobs/{id}`; None for a job that isn't this tenant's."""
        if self.engine is None:
            return None
        try:
            job = self.engine.live.get(id) or await self.engine.jobs.load(id)
            if job is None or job.identity.tenant != identity.tenant:
                return None
            if method == "DELETE" and not job.over:
                await self.engine.jobs.cancel(id)
        except StateLost:
            message = "Jobs can't be looked up at the moment."
            raise WeirError(503, message, code="state_unavailable", headers=((b"retry-after", b"1"),)) from None
        return told(job)

    def _over(self, job: Job) -> None:
        """Tells whoever wants to know."""
        hook, lookup, spawn = self._config.webhook, self._services.lookup, self._services.spawn
        if hook is None or lookup is None or spawn is None:
            return
        spawn(hook.tell(lookup, {"event": "job.over", **told(job, answer=False)}), "webhook")


def _patience(request: Request, asked: bool) -> float | None:
    """How long the connection is held: as `Prefer: wait` says (RFC 7240, section 4.3); as long as it takes where the
    client didn't ask to be deferred at all."""
    said = get(request.headers, b"prefer")
    found = _WAIT.search(said.decode("latin-1").lower()) if said is not None else None
    if found is not None:
        return float(found[1]) if found[1] else math.inf
    return None if asked else math.inf


def _answer(job: Job) -> Response:
    headers = [(b"content-type", b"application/json"), (b"x-weir-job", job.id.encode())]
    if job.nanodollars is not None:
        headers.append((b"x-weir-cost", b"%d.%09d" % divmod(job.nanodollars, 10**9)))
    if job.status == 0:
        message = "The job was cancelled before it was answered."
        raise WeirError(409, message, code="job_cancelled")
    return Response(job.status, headers, job.answer)


def _accepted(job: Job) -> Response:
    location = f"/weir/jobs/{job.id}".encode()
    headers = [(b"content-type", b"application/json"), (b"location", location), (b"x-weir-job", job.id.encode())]
    return Response(202, headers, orjson.dumps(told(job)))


def build(config: Config, services: Services) -> DeferToBatch:
    """The policy for one entry of a policy file."""
    return DeferToBatch(config, services)
