"""The exact tier: the same request gets the same answer, from memory.

Rules:
1. Kept is only what `keepable` says. What it cost is what all attempts cost that were made for it.
2. A hit costs no guard: budgets and rate limits are asked for attempts, and there is none.
3. Nothing waits for keeping: an answer is kept after it has left. What is large is worked on in a thread.
4. Observing looks and keeps, so that it can tell what would have hit; it answers nothing and claims no saving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import orjson

from policies.cache.entry import AGE_MARK, TIME_MARK, Entry, Rendering
from policies.cache.freshness import NOTHING, Verdict, Wish, judged, wish_of
from policies.cache.keepable import keepable
from policies.cache.key import Asked, asked, key_of, versions_of
from policies.cache.options import Exact
from policies.cache.tiers import Tiers
from proxy.body import Body
from proxy.chain import Services
from proxy.dialects.gathering import gathered
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Forward, Request, Saving
from proxy.ready import Again
from proxy.response import Outcome, Response
from proxy.wire.headers import Headers, get
from proxy.wire.sse import Event

_RENEW_S: Final = 600.0
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
MISS: Final[Headers] = [(b"x-weir-cache", b"miss"), (b"cache-status", b"weir; fwd=miss")]
_LARGE_BYTES: Final = 32 * 1024  # an answer, to be worked on in a thread
_KEYS: Final = 16  # of one body: for so many models and versions


class Found(msgspec.Struct, frozen=True, gc=False):
    """An answer that may be given."""

    made: Rendering
    verdict: Verdict
    age_s: float
    now_s: float


class Kept(msgspec.Struct, frozen=True):
    """What is to be kept, taken from an exchange before it lets go of it."""

    key: str
    endpoint: str
    dialect: str | None
    model: str
    streamed: bool
    kind: str
    pieces: list[bytes]
    attempt: Attempt
    long_enough: bool
    nanodollars: int | None
    tags: tuple[str, ...]


class ExactTier:
    """Looks up, answers, keeps."""

    def __init__(self, config: Exact, services: Services, tiers: Tiers, wall: Callable[[], float]) -> None:
        self._config = config
        self._services = services
        self._tiers = tiers
        self._wall = wall
        self._renewing: set[str] = set()
        self._stale_s = config.stale_while_revalidate
        self._vary = frozenset(name.lower().encode() for name in config.vary)
        self.kept: Callable[[Entry], object] | None = None  # hears of every answer that was kept

    def asked(self, request: Request) -> Asked:
        """What the request's body asks; of a body that was asked before it is known."""
        memo = request.body.memo if type(request.body) is Body else None
        known: Asked | None = None if memo is None else memo.get((self, request.endpoint.name))
        return asked(request, self._config.sampled) if known is None else known

    def key(self, request: Request, told: Asked) -> str:
        """The key of a request that doesn't pass by."""
        share, keys = self._config.share, told.keys
        if keys is None:  # not a body that is remembered
            return key_of(request, share, self._vary, told)
        about = (request.model, request.target, self._said(request)[1])  # it is one key's body
        key = keys.get(about)
        if key is None:
            if len(keys) >= _KEYS:
                keys.clear()
            key = keys[about] = key_of(request, share, self._vary, told)
        return key

    def wish(self, request: Request) -> Wish:
        """What the request says about caching, where the policy honours it."""
        return self._said(request)[0]

    def _said(self, request: Request) -> tuple[Wish, bytes]:
        """What the headers say, of caching and of versions. A client sends the same ones again."""
        headers, heads = request.headers, request.exchange.heads
        if heads is not None and heads.headers is headers:
            said: tuple[Wish, bytes] | None = heads.made.get(self)
            if said is None:
                said = heads.made[self] = self._read(headers)
            return said
        return self._read(headers)

    def _read(self, headers: Headers) -> tuple[Wish, bytes]:
        wish = wish_of(headers) if self._config.honour_cache_control else NOTHING
        return wish, versions_of(headers, self._vary)

    def near(self, key: str, wish: Wish) -> Found | None:
        """From this worker's memory, if it may be given."""
        made = self._tiers.near(key)
        return None if made is None else self._judged(made, wish)

    async def find(self, request: Request, told: Asked, key: str, wish: Wish) -> Found | None:
        """The answer that the cache has, if it may be given."""
        found = self.near(key, wish)
        if found is None or found.verdict == "stale":  # another worker may have a newer one
            found = self._judged(await self._tiers.find(key, newer=found is not None), wish) or found
        return found

    def _judged(self, made: Rendering | None, wish: Wish) -> Found | None:
        if made is None:
            return None
        now_s = self._wall()
        age_s = now_s - made.entry.made_s
        if age_s < 0.0:  # made by another host, whose clock is ahead
            age_s = 0.0
        if wish is NOTHING and age_s < self._config.ttl:
            return Found(made, "fresh", age_s, now_s)
        verdict = judged(age_s, self._config.ttl, self._stale_s, wish)
        return None if verdict == "expired" else Found(made, verdict, age_s, now_s)

    def answer(self, request: Request, told: Asked, found: Found) -> Response | None:
        """A hit as a response; None where it can't be given in the form that is asked for."""
        response = self.given(request.exchange, told, found)
        if response is not None and told.keys is None:
            self._remember(request, told)
        return response

    def given(self, exchange: Exchange, told: Asked, found: Found) -> Response | None:
        """The same, to whichever exchange asks for it."""
        made, now_s = found.made, found.now_s
        entry = made.entry
        if told.streamed and entry.dialect is not None:
            size = made.size_bytes
            body = made.streamed(exchange.id, now_s, include_usage=told.usage)
            if body is None:
                return None
            kind = _EVENTS
            if made.size_bytes != size:
                self._tiers.grown(made)
        else:
            body, kind = made.whole(exchange.id, now_s), made.kind
        if entry.nanodollars:
            exchange.save(made.saving or self._saving(made))
        headers = [kind, (made.request_id, exchange.id.encode()), *self._headers(made, found)]
        if exchange.attempts:  # some of a policy outside: who served is said by the last of them
            headers.remove((b"x-weir-model", _model(entry)))
        return Response(200, headers, body)

    def again(self, told: Asked, found: Found, policy: object, note: Callable[[Exchange, str], object]) -> Again:
        """A fresh hit as an answer that may be given again."""
        made, ttl_s = found.made, self._config.ttl
        key, made_s = made.entry.key, made.entry.made_s
        timeless = Found(made, "fresh", AGE_MARK, int(TIME_MARK))

        def answer(exchange: Exchange) -> Response | None:
            note(exchange, key)
            return self.given(exchange, told, timeless)

        def changing(now_s: float) -> Sequence[tuple[bytes, bytes]]:
            self._tiers.used(key)
            age_s = max(0.0, now_s - made_s)
            return (
                (_ttl(ttl_s, AGE_MARK), _ttl(ttl_s, age_s)),
                (b"%d" % AGE_MARK, b"%d" % age_s),
                (TIME_MARK, b"%d" % now_s),
            )

        return Again(policy, key, self._tiers.near, made, made_s + ttl_s, self._wall, answer, changing)

    def _headers(self, made: Rendering, found: Found) -> Headers:
        """What a client is told of an entry: the same for a second."""
        told = int(found.age_s), found.verdict
        if made.told != told:
            entry = made.entry
            self._tiers.used(entry.key)
            made.told, made.headers = told, [
                (b"age", b"%d" % found.age_s),
                (b"cache-status", b"weir; hit; " + _ttl(self._config.ttl, found.age_s)),
                (b"x-weir-cache", b"hit" if found.verdict == "fresh" else b"stale"),
                (b"x-weir-cache-entry", entry.key.encode()),
                (b"x-weir-model", _model(entry)),
                *([(b"x-weir-saved", b"unpriced")] if entry.nanodollars is None else []),
            ]  # fmt: skip
        return made.headers

    def _saving(self, made: Rendering) -> Saving:
        entry = made.entry
        assert entry.nanodollars is not None
        made.saving = Saving(self._services.name, entry.nanodollars, entry.served or entry.model, entry.tokens)
        return made.saving

    def _remember(self, request: Request, told: Asked) -> None:
        """The body of a request that hit: it will come again."""
        body, bodies = request.body, self._services.bodies
        if bodies is None or type(body) is not Body:
            return
        bodies.remember(request.exchange.identity, body)
        memo = body.memo = body.memo or {}
        memo[self, request.endpoint.name] = msgspec.structs.replace(told, keys={})

    def renew(self, request: Request, key: str, forward: Forward) -> None:
        """Asks anew, once at a time, in an exchange that no client waits for; an overloaded worker doesn't."""
        if key in self._renewing or not self._services.spares():
            return
        self._renewing.add(key)

        async def run(background: Exchange) -> None:
            response = await forward(request.using(exchange=background))
            self.watch(background, response, key, request, 0)
            if response.whole:
                response.held()
            else:
                await response.read()

        task = request.exchange.detached("revalidation", run, timeout_s=_RENEW_S, policy=self._services.name)
        task.add_done_callback(lambda _: self._renewing.discard(key))

    # --- keeping

    def watch(self, exchange: Exchange, response: Response, key: str, request: Request, before: int) -> None:
        """Keeps the answer, once it has come whole. `before`: how many attempts aren't for it."""
        if response.status != 200:
            return
        pieces: list[bytes] = []
        size, most = 0, self._config.max_entry
        kind = (get(response.headers, b"content-type") or b"application/json").decode("latin-1")
        streamed = kind.startswith("text/event-stream")

        def tap(event: Event | Outcome) -> None:
            nonlocal size
            if isinstance(event, Event):
                piece = event.data if streamed else event.raw
                if piece is None or size > most:
                    return
                size += len(piece)
                if size <= most:
                    pieces.append(piece)
                else:
                    pieces.clear()
            elif event is Outcome.COMPLETE and pieces and size <= most:
                kept = self._to_keep(exchange, request, key, before, streamed, kind, pieces)
                if kept is not None:
                    assert self._services.spawn is not None
                    self._services.spawn(self._keep(kept, size), "keep cache entry")

        response.tap(tap)

    def _to_keep(
        self,
        exchange: Exchange,
        request: Request,
        key: str,
        before: int,
        streamed: bool,
        kind: str,
        pieces: list[bytes],
    ) -> Kept | None:
        attempts = [attempt for attempt in exchange.attempts[before:] if attempt.outcome]
        serving = next((attempt for attempt in reversed(attempts) if attempt.outcome == "complete"), None)
        if serving is None or serving.error is not None:
            return None
        costs = [attempt.nanodollars for attempt in attempts]
        return Kept(
            key,
            request.endpoint.name,
            request.endpoint.dialect if request.endpoint.name != "audio.speech" else None,
            request.model or "",
            streamed,
            kind,
            pieces,
            serving,
            serving.output_cap == _asked_cap(request),
            None if None in costs else sum(cost for cost in costs if cost is not None),
            self._tags(request),
        )

    def _tags(self, request: Request) -> tuple[str, ...]:
        tenant = request.exchange.identity.tenant
        own = (f"{name}={value}" for name, value in request.exchange.tags.items() if name in self._config.tags)
        return (f"tenant={tenant}", f"model={request.model}", f"policy={self._services.name}", *own)

    async def _keep(self, kept: Kept, size: int) -> None:
        if size > _LARGE_BYTES:
            entry = await asyncio.to_thread(self._entry, kept)
        else:
            entry = self._entry(kept)
        if entry is not None:
            await self._tiers.keep(entry, self._config.ttl + self._stale_s)
            if self.kept is not None:
                self.kept(entry)

    def _entry(self, kept: Kept) -> Entry | None:
        """The answer as an entry; None where it may not be kept."""
        attempt = kept.attempt
        try:
            body = _whole_body(kept.dialect or "", kept.pieces, attempt) if kept.streamed else b"".join(kept.pieces)
            if body is None or not self._keepable(kept, body):
                return None
        except (ValueError, TypeError, AttributeError, KeyError):  # JSON of another form than the dialect's
            return None
        return Entry(
            kept.key,
            body,
            "application/json" if kept.streamed else kept.kind,
            kept.dialect,
            self._wall(),
            kept.model,
            attempt.served,
            attempt.usage.counts() if attempt.usage is not None else {},
            kept.nanodollars,
            self._config.ttl,
            kept.tags,
        )

    def _keepable(self, kept: Kept, body: bytes) -> bool:
        if kept.endpoint == "audio.speech":
            return True
        usage = kept.attempt.usage
        if kept.dialect is not None and (usage is None or usage.clamped):
            return False  # in the other form it would be missing, or wrong
        long_enough, refusals = kept.long_enough, self._config.refusals
        return keepable(kept.endpoint, orjson.loads(body), long_enough=long_enough, refusals=refusals)


def _ttl(ttl_s: float, age_s: float) -> bytes:
    return b"ttl=%d" % (ttl_s - age_s)


def _model(entry: Entry) -> bytes:
    return (entry.served or entry.model).encode("ascii", "replace")


def _asked_cap(request: Request) -> int | None:
    caps = [request.field(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    return max((cap for cap in caps if isinstance(cap, int)), default=None)


def _whole_body(dialect: str, payloads: Sequence[bytes], attempt: Attempt) -> bytes | None:
    """A stream as the whole answer, with the usage that may have been taken out of it."""
    answer = gathered(dialect, payloads)
    if answer is None:
        return None
    if answer.get("usage") is None and attempt.usage is not None:
        given = attempt.usage.given
        answer["usage"] = orjson.loads(bytes(given)) if isinstance(given, msgspec.Raw) else given
    return bytes(memoryview(orjson.dumps(answer)))  # orjson's own bytes keep the whole buffer that it wrote into


def only_if_cached() -> WeirError:
    """RFC 9111, section 5.2.1.7."""
    message = "The request says `only-if-cached`, and the cache has no answer to it."
    return WeirError(504, message, code="not_cached")
