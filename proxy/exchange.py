"""One client request, from its first byte to its settled cost.

What lives here: `Request`, which goes down the chain and never changes; `Attempt`, one call of an upstream; and
`Exchange`, which all of them belong to: who asked, until when, what was decided and what it cost. No I/O.

Invariants: every deferred function runs exactly once; an exchange ends once; attempts are numbered from 1 in the
order of dispatch.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import msgspec

from proxy.body import Body
from proxy.errors import WeirError
from proxy.response import Outcome, Response
from proxy.wire.headers import Headers

if TYPE_CHECKING:
    from proxy.dialects import Usage
    from proxy.endpoints import Endpoint
    from proxy.pricing import RateCard
    from proxy.wire.call import BodyReader

T = TypeVar("T")
UNSET: Final = object()


class Identity(msgspec.Struct, frozen=True):
    """Who asks. `tenant` separates everything that is kept: no cache entry, object id or shared call crosses it."""

    tenant: str
    key: str | None = None
    team: str | None = None
    project: str | None = None
    org: str | None = None
    tags: dict[str, str] = {}
    models: tuple[str, ...] | None = None  # patterns of the models that the key may use; None for any


class Decision(msgspec.Struct, frozen=True):
    """What one policy did to one exchange, and why; `numbers` explain it."""

    policy: str
    source: str
    action: str
    numbers: dict[str, Any] = {}


class Saving(msgspec.Struct, frozen=True):
    """What one policy saved on one exchange: the counterfactual's cost less what was paid instead, in nano-dollars.

    `model` and `tokens` are the counterfactual: what would have been called, and with how much. What the policy itself
    spends on the way (judges, shadows) is not in here: those are exchanges of their own, which name the policy.
    """

    policy: str
    nanodollars: int
    model: str
    tokens: dict[str, int] = {}
    known: Literal["observed", "modelled"] = "modelled"


Known = Literal["observed", "estimated", "unknown", "unpriced"]


class Attempt(msgspec.Struct, eq=False):
    """One call of an upstream. `dispatch` writes it; guards read it, and may lower `output_cap`.

    Times are nanoseconds since it began. `known` says how the cost is known; `nanodollars` is None where no price is.
    """

    exchange: Exchange
    request: Request
    number: int
    deployment: str
    upstream: str
    model: str  # the name sent to the upstream
    n: int = 1
    output_cap: int | None = None
    tier: str | None = None
    estimated_input_tokens: int = 0
    estimate_nanodollars: int | None = None
    started_ns: int = msgspec.field(default_factory=time.perf_counter_ns)
    ttft_ns: int | None = None
    total_ns: int = 0
    status: int | None = None
    served: str | None = None
    usage: Usage | None = None
    nanodollars: int | None = None
    known: Known = "unpriced"
    cards: str = ""
    outcome: str = ""
    error: str | None = None
    upstream_request_id: str | None = None
    settled: bool = False
    others: tuple[str, ...] = ()  # the other deployments of its model
    holds: tuple[str, ...] = ()  # in the Store, that it draws on: whoever settles for a dead worker reads them
    reserved_tokens: int | None = None  # by a hard budget of tokens; one of dollars says so in `estimate_nanodollars`
    card: RateCard | None = None  # what the model costs there; None where no price is known

    def __repr__(self) -> str:
        return f"<Attempt {self.number} {self.deployment} {self.outcome or 'running'}>"


Settle = Callable[[Attempt], object]


class Guard(Protocol):
    """Asked before each attempt; may wait, lower `attempt.output_cap`, or refuse by raising WeirError.

    What it returns, if anything, is called once when the attempt is settled, also if it was never sent.
    """

    async def __call__(self, attempt: Attempt) -> Settle | None:
        """Admits the attempt."""


class Request(msgspec.Struct, frozen=True):
    """What goes down the chain. A changed copy is made by `using`.

    `body` is a `Body` for endpoints that are understood, bytes for an empty or opaque one, else a `BodyReader` that
    streams through. `target` is the raw path and query as the client wrote them; `path` the part before `?`.
    """

    exchange: Exchange
    endpoint: Endpoint
    method: str
    target: bytes
    path: str
    headers: Headers
    body: Body | bytes | BodyReader
    model: str | None = None

    def using(
        self,
        *,
        model: str | None = None,
        headers: Headers | None = None,
        fields: Mapping[str, Any] | None = None,
        exchange: Exchange | None = None,
    ) -> Request:
        """A copy with another model, other headers, or top-level body fields set. The client's bytes stay otherwise."""
        changes: dict[str, Any] = dict(fields or {})
        if model is not None and model != self.model:
            changes["model"] = model
        body = self.body
        if changes:
            if not isinstance(body, Body):
                raise TypeError(f"the body of {self.endpoint.name} isn't understood, so it can't be changed")
            body = body.using(changes)
        return Request(
            exchange or self.exchange,
            self.endpoint,
            self.method,
            self.target,
            self.path,
            self.headers if headers is None else headers,
            body,
            changes.get("model", self.model),
        )

    @property
    def replayable(self) -> bool:
        """Whether it can be sent (again): a body that streams through can be sent once."""
        return isinstance(self.body, (Body, bytes)) or not self.body.begun

    def field(self, name: str, default: Any = None) -> Any:
        """A top-level field of the body, if it is understood."""
        return self.body.get(name, default) if isinstance(self.body, Body) else default


class Heads(msgspec.Struct, eq=False):
    """What a client's headers became on their way to upstreams, and what policies read in them (by policy), so that it
    needn't be worked out for each request. `ready`: answers that are ready, by the request's body, which holds while
    `version` is the data plane's."""

    headers: Headers
    version: object = None
    made: dict[Any, Any] = {}
    ready: dict[bytes, Any] | None = None


Forward = Callable[[Request], Awaitable[Response]]

_PREFIX: Final = secrets.token_hex(6)
_numbers: Final = itertools.count(1)


class Spawn(Protocol):
    """Starts background work of an exchange; the worker keeps it and ends it with the process."""

    def __call__(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A named task that somebody holds."""


def new_id() -> str:
    """An id for an exchange."""
    return f"{_PREFIX}{next(_numbers):08x}"


class Exchange(msgspec.Struct, eq=False):
    """One client request and all that belongs to it. `deadline` is the loop's time; `started_at_ns` is Unix time."""

    identity: Identity
    endpoint: str = ""
    asked: str | None = None
    deadline: float = float("inf")
    tags: dict[str, str] = {}
    bypass: frozenset[str] = frozenset()
    kind: str = "client"  # or the kind of a detached exchange: judge, shadow, shared, …
    parent: str | None = None
    spawn: Spawn | None = None
    on_end: Callable[[Exchange], object] | None = None
    heads: Heads | None = None  # request heads as they were made for upstreams before, for the same client headers
    id: str = msgspec.field(default_factory=new_id)
    started_ns: int = msgspec.field(default_factory=time.perf_counter_ns)
    started_at_ns: int = msgspec.field(default_factory=time.time_ns)
    attempts: list[Attempt] = []
    decisions: list[Decision] = []
    guards: list[Guard] = []
    deferred: list[Callable[[Exchange], object]] = []
    open_answers: list[Any] = []  # of its attempts; those that are still open are given up with the exchange
    status: int = 0
    outcome: Outcome | None = None
    nanodollars: int | None = 0  # of its settled attempts; None where one can't be priced
    saved_nanodollars: int = 0
    savings: list[Saving] = []
    started_by: str | None = None  # the policy that did, if it is detached
    stateful_allowed: bool = False  # set by a policy that keeps tenants' objects apart
    can_wait_s: float | None = None  # set by a policy for a client that didn't say how long its request can wait
    avoid: frozenset[tuple[str | None, str]] = frozenset()  # models and deployments that were given up
    total_s: float | None = None  # these three stand in for the upstream's, for each attempt that follows
    ttft_s: float | None = None
    idle_s: float | None = None
    wanted: Callable[[], bool] | None = None  # set by a policy that has others wait for what this exchange calls
    ended: bool = False

    def __repr__(self) -> str:
        return f"<Exchange {self.id} {self.endpoint} {self.asked or '-'} {len(self.attempts)} attempts>"

    def guard(self, fn: Guard) -> None:
        """Has `fn` asked before each attempt that follows, once however often it is named."""
        if fn not in self.guards:
            self.guards.append(fn)

    def defer(self, fn: Callable[[Exchange], object]) -> None:
        """Runs `fn` exactly once when the exchange ends, however it ends; at once if it has ended."""
        if self.ended:
            fn(self)
        else:
            self.deferred.append(fn)

    def note(self, policy: str, action: str, source: str = "", **numbers: Any) -> None:
        """Records what a policy decided, for the headers, the journal and `weir why`."""
        self.decisions.append(Decision(policy, source, action, numbers))

    def save(self, saving: Saving) -> None:
        """Claims a saving, for the headers, the journal and the ledger."""
        self.savings.append(saving)
        self.saved_nanodollars += saving.nanodollars

    def detached(
        self,
        kind: str,
        run: Callable[[Exchange], Coroutine[Any, Any, T]],
        *,
        timeout_s: float | None = None,
        policy: str | None = None,
    ) -> asyncio.Task[T]:
        """A background exchange of the same tenant, with its own attempts, guards and deadline; it outlives this one.

        `run` is called with it; send requests made by `request.using(exchange=…)`. It ends when `run` returns. Its cost
        is deducted from what `policy` saves.
        """
        assert self.spawn is not None, "this exchange can't start background work"
        loop = asyncio.get_running_loop()
        background = Exchange(
            self.identity,
            endpoint=self.endpoint,
            asked=self.asked,
            deadline=float("inf") if timeout_s is None else loop.time() + timeout_s,
            tags=self.tags,
            kind=kind,
            parent=self.id,
            started_by=policy,
            spawn=self.spawn,
            guards=list(self.guards),  # whoever pays for this exchange pays for that one
            on_end=self.on_end,
        )

        async def whole() -> T:
            outcome = Outcome.ABORTED
            try:
                async with asyncio.timeout(timeout_s):
                    result = await run(background)
                outcome = Outcome.COMPLETE
                return result
            finally:
                background.end(outcome)

        return self.spawn(whole(), f"{kind} of {self.id}")

    def outlives_client(self) -> bool:
        """Asked when its client has left: whether it goes on all the same, since others wait for its call."""
        return self.wanted is not None and self.wanted()

    def end(self, outcome: Outcome) -> None:
        """Ends the exchange: closes what is still open, runs what was deferred. Only the first call counts."""
        if self.ended:
            return
        self.ended = True
        self.outcome = outcome
        for answer in self.open_answers:
            answer.cancel()
        self.open_answers.clear()
        for fn in reversed(self.deferred):
            try:
                fn(self)
            except Exception as error:  # one policy's failure must not keep the others from settling
                self.note("exchange", "deferred_failed", error=type(error).__name__)
        self.deferred.clear()
        if self.on_end is not None:
            self.on_end(self)

    def release(self) -> None:
        """Lets go of what refers back to this exchange, so that it is freed now and not by the garbage collector."""
        for attempt in self.attempts:
            attempt.request = attempt.exchange = None  # type: ignore[assignment]  # nobody asks an ended one
        self.guards.clear()

    def shun(self, attempt: Attempt) -> None:
        """Has the next attempts with this model made at its other deployments, as long as there are any."""
        self.avoid |= {(attempt.request.model, attempt.deployment)}

    def avoided(self, model: str | None) -> frozenset[str]:
        """The deployments that the next attempt with this model leaves out if it can."""
        return frozenset([deployment for name, deployment in self.avoid if name == model])

    def charge(self, nanodollars: int | None) -> None:
        """Adds the cost of a settled attempt."""
        if nanodollars is None or self.nanodollars is None:
            self.nanodollars = None
        else:
            self.nanodollars += nanodollars


__all__ = [
    "Attempt",
    "Decision",
    "Exchange",
    "Forward",
    "Guard",
    "Identity",
    "Outcome",
    "Request",
    "Response",
    "Saving",
    "Settle",
    "Spawn",
    "WeirError",
]
