"""The exact tier: the same request gets the same answer, from memory.

Rules:
1. Kept is only a whole, successful answer: nothing that was cut short, refused, filtered or failed, and nothing that
   ended early because of a cap that the proxy itself set.
2. A hit costs no guard: budgets and rate limits are asked for attempts, and there is none.
3. Nothing waits for keeping: an answer is kept after it has left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson

from policies.cache.entry import Entry, Rendering
from policies.cache.freshness import NOTHING, Wish, judged, wish_of
from policies.cache.key import key_of, uncacheable
from policies.cache.options import Exact
from policies.cache.tiers import Tiers
from proxy.chain import Services
from proxy.dialects.gathering import gathered
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Saving
from proxy.response import Outcome, Response
from proxy.wire.headers import Headers, get
from proxy.wire.sse import Event

_WHOLE_ENDS: Final = frozenset((None, "stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use"))
_CUT_ENDS: Final = frozenset(("length", "max_tokens"))
_RENEW_S: Final = 600.0
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")


class ExactTier:
    """Looks up, answers, keeps."""

    def __init__(self, config: Exact, services: Services, tiers: Tiers, wall: Callable[[], float]) -> None:
        self._config = config
        self._services = services
        self._tiers = tiers
        self._wall = wall
        self._renewing: set[str] = set()
        self._ttl_s = config.ttl
        self._stale_s = config.stale_while_revalidate

    def why_not(self, request: Request) -> str | None:
        """Why a request passes by, in a word."""
        return uncacheable(request, self._config.sampled)

    def key(self, request: Request) -> str:
        """The key of a request that doesn't pass by."""
        return key_of(request, self._config.share)

    def wish(self, request: Request) -> Wish:
        """What the request says about caching, where the policy honours it."""
        return wish_of(request.headers) if self._config.honour_cache_control else NOTHING

    async def found(self, request: Request, key: str, wish: Wish, forward: Forward) -> Response | None:
        """The answer from the cache, if it has one that may be given."""
        made = self._tiers.near(key) or await self._tiers.find(key)
        if made is None:
            return None
        now = self._wall()
        verdict = judged(max(0.0, now - made.entry.made_s), made.entry.ttl_s, self._stale_s, wish)
        if verdict == "expired":
            return None
        response = answered(request, made, now, verdict, self._services.name)
        if response is not None and verdict == "stale":
            self._renew(request, key, forward)
        return response

    def _renew(self, request: Request, key: str, forward: Forward) -> None:
        """Asks anew, once at a time, in an exchange that no client waits for."""
        if key in self._renewing or self._services.observing:
            return
        self._renewing.add(key)

        async def run(background: Exchange) -> None:
            try:
                response = await forward(request.using(exchange=background))
                self.watch(background, response, key, request)
                if response.whole:
                    response.held()
                else:
                    await response.read()
            finally:
                self._renewing.discard(key)

        request.exchange.detached("revalidation", run, timeout_s=_RENEW_S, policy=self._services.name)

    def watch(self, exchange: Exchange, response: Response, key: str, request: Request) -> None:
        """Keeps the answer, once it has come whole."""
        if response.status != 200:
            return
        seen: list[bytes] = []
        size = 0

        def tap(event: Event | Outcome) -> None:
            nonlocal size
            if isinstance(event, Event):
                piece = event.raw if not streamed or event.data is None else event.data
                size += len(piece)
                if size <= self._config.max_entry and (not streamed or event.data is not None):
                    seen.append(piece)
            elif event is Outcome.COMPLETE and 0 < size <= self._config.max_entry:
                self._keep(exchange, request, key, streamed, kind, seen)

        kind = (get(response.headers, b"content-type") or b"application/json").decode("latin-1")
        streamed = kind.startswith("text/event-stream")
        response.tap(tap)

    def _keep(
        self, exchange: Exchange, request: Request, key: str, streamed: bool, kind: str, seen: list[bytes]
    ) -> None:
        attempt = exchange.attempts[-1] if exchange.attempts else None
        if attempt is None or attempt.error is not None or attempt.known != "observed":
            return
        speech = request.endpoint.name == "audio.speech"
        dialect = None if speech else request.endpoint.dialect
        try:
            body = _whole_body(dialect or "", seen, attempt) if streamed else b"".join(seen)
            if body is None or (dialect is not None and not self._keepable(orjson.loads(body), request, attempt)):
                return
        except ValueError:
            return
        entry = Entry(
            key,
            body,
            "application/json" if streamed else kind,
            dialect,
            self._wall(),
            request.model or "",
            attempt.served,
            attempt.usage.counts() if attempt.usage is not None else {},
            attempt.nanodollars,
            self._ttl_s,
            self._tags(request),
        )
        assert self._services.spawn is not None
        self._services.spawn(self._tiers.keep(entry, self._ttl_s + self._stale_s), "keep cache entry")

    def _tags(self, request: Request) -> tuple[str, ...]:
        tenant = request.exchange.identity.tenant
        own = (f"{name}={value}" for name, value in request.exchange.tags.items() if name in self._config.tags)
        return (f"tenant={tenant}", f"model={request.model}", f"policy={self._services.name}", *own)

    def _keepable(self, answer: Any, request: Request, attempt: Attempt) -> bool:
        if not isinstance(answer, dict) or answer.get("error") is not None:
            return False
        ends = {answer.get("stop_reason")} | {choice.get("finish_reason") for choice in answer.get("choices") or ()}
        if answer.get("status") not in (None, "completed"):
            return False
        if not ends <= _WHOLE_ENDS | _CUT_ENDS or (ends & _CUT_ENDS and attempt.output_cap != _asked_cap(request)):
            return False
        return self._config.refusals or not any(_refused(choice) for choice in answer.get("choices") or ())


def _asked_cap(request: Request) -> int | None:
    caps = [request.field(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    return max((cap for cap in caps if isinstance(cap, int)), default=None)


def _refused(choice: Any) -> bool:
    message = choice.get("message") if isinstance(choice, dict) else None
    return isinstance(message, dict) and bool(message.get("refusal"))


def _whole_body(dialect: str, payloads: list[bytes], attempt: Attempt) -> bytes | None:
    """A stream as the whole answer, with the usage that may have been taken out of it."""
    answer = gathered(dialect, payloads)
    if answer is None:
        return None
    if answer.get("usage") is None and attempt.usage is not None:
        given = attempt.usage.given
        answer["usage"] = orjson.loads(bytes(given)) if isinstance(given, msgspec.Raw) else given
    return orjson.dumps(answer)


def answered(request: Request, made: Rendering, now: float, verdict: str, policy: str) -> Response | None:
    """A hit as a response; None where it can't be given in the form that is asked for."""
    entry, exchange = made.entry, request.exchange
    body: bytes | None
    if request.field("stream") is True and entry.dialect is not None:
        options = request.field("stream_options")
        usage = isinstance(options, dict) and options.get("include_usage") is True
        body, kind = made.streamed(exchange.id, now, include_usage=usage), _EVENTS
    else:
        body, kind = made.whole(exchange.id, now), (b"content-type", entry.kind.encode("latin-1"))
    if body is None:
        return None
    if entry.nanodollars:
        exchange.save(Saving(policy, entry.nanodollars, entry.served or entry.model, entry.tokens))
    return Response(200, [kind, *told("hit" if verdict == "fresh" else "stale", entry, now)], body)


def told(how: str, entry: Entry, now: float) -> Headers:
    """What a client sees of a hit."""
    age = int(max(0.0, now - entry.made_s))
    return [
        (b"age", b"%d" % age),
        (b"x-weir-cache", how.encode()),
        (b"x-weir-cache-entry", entry.key.encode()),
        (b"x-weir-saved", b"unpriced" if entry.nanodollars is None else b"%d.%09d" % divmod(entry.nanodollars, 10**9)),
    ]


def only_if_cached() -> WeirError:
    """RFC 9111, section 5.2.1.7."""
    message = "The request says `only-if-cached`, and the cache has no answer to it."
    return WeirError(504, message, code="not_cached")
