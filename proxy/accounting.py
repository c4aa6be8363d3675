"""What an attempt may cost, what it cost, and that the journal, the metrics and the guards are told.

Rules:
1. `reserved` is written before an attempt is sent, `settled` when it is over, each once.
2. Every cost says how it is known: observed, estimated, unknown (maybe billed), or unpriced.
3. Guards hear of an attempt once, last admitted first; one's failure keeps nobody else from hearing of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec

from proxy.body import Body
from proxy.dialects import Reading, Usage
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Settle
from proxy.faults import Fault
from proxy.journal import Ended, Estimate, Journal, Reserved, Settled
from proxy.metrics import Metrics
from proxy.pricing import RateCard, RateCards, is_regional, provider_of
from proxy.tokens import Estimator
from proxy.upstreams import Upstream
from proxy.wire.call import BodyReader

BYTES_A_TOKEN: Final = 4  # a first guess; the estimator of tokens.py learns better ones
_PRICES_S: Final = 60.0
_UNKNOWN: Final[Any] = object()


class Account(Protocol):
    """What an attempt came to."""

    attempt: Attempt
    upstream: Upstream
    reading: Reading
    settles: list[Settle]  # the guards that want to be told
    status: int

    @property
    def sent(self) -> bool:
        """Whether the upstream may have heard of it."""

    @property
    def estimated_output_tokens(self) -> int:
        """What it may be worth where no usage tells."""


class Elsewhere(msgspec.Struct):
    """The account of an attempt that was answered by other means than a request of its own."""

    attempt: Attempt
    upstream: Upstream
    reading: Reading
    settles: list[Settle]
    status: int = 200
    sent: bool = True
    estimated_output_tokens: int = 0


class GoesOn(Protocol):
    """Work that isn't over with the answer to its request."""

    def takes(self, account: Account, outcome: str) -> bool:
        """Whether another attempt stands for it from now on."""

    def read(self, attempt: Attempt) -> None:
        """A stored response was read."""


class Books:
    """The accounts of one configuration's attempts."""

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        cards: RateCards | None,
        tokens: Estimator,
        log: Callable[..., object],
        policies_hash: str,
        goes_on: GoesOn,
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._cards = cards
        self._cards_hash = cards.hash if cards is not None else ""
        self._tokens = tokens
        self._log = log
        self._policies_hash = policies_hash
        self._goes_on = goes_on
        self._clock = asyncio.get_running_loop().time
        self._priced: dict[tuple[str, str], RateCard | None] = {}
        self._priced_until = 0.0

    # --- before it is sent

    def estimate(self, attempt: Attempt, upstream: Upstream) -> None:
        """What it may cost, as far as that is known now."""
        request = attempt.request
        body, model, guards = request.body, attempt.model, attempt.exchange.guards
        if guards and isinstance(body, Body) and any(getattr(one, "estimates", True) for one in guards):
            tokens = self._tokens.estimate(model, request.endpoint.name, body)
        else:  # nobody decides by it
            tokens = (body.length or 0 if isinstance(body, BodyReader) else len(body)) // BYTES_A_TOKEN
        attempt.estimated_input_tokens = tokens
        card = attempt.card = self.card(upstream, model)
        if card is not None:
            attempt.estimate_nanodollars = card.reserve(tokens, attempt.output_cap or 0, attempt.n)

    def card(self, upstream: Upstream, model: str) -> RateCard | None:
        """The price of a model there; looked up anew every minute, since prices have a first day."""
        now = self._clock()
        if now > self._priced_until:
            self._priced.clear()
            self._priced_until = now + _PRICES_S
        key = (upstream.name, model)
        found = self._priced.get(key, _UNKNOWN)
        return self._look_up(upstream, key) if found is _UNKNOWN else found

    def _look_up(self, upstream: Upstream, key: tuple[str, str]) -> RateCard | None:
        if self._cards is None or not key[1]:
            return None
        provider, now = upstream.provider or provider_of(upstream.url), datetime.now(UTC)
        regional = is_regional(upstream.url)
        found = self._cards.card(provider, key[1], now, upstream=upstream.name, regional=regional)
        if len(self._priced) < 4096:
            self._priced[key] = found
        return found

    def reserve(self, attempt: Attempt, settles: list[Settle]) -> None:
        """Writes down that it will be sent. Raises WeirError, after telling the guards, where that can't be."""
        exchange, identity = attempt.exchange, attempt.exchange.identity
        self._journal.append(
            Reserved(
                time.time_ns(),
                exchange.id,
                self._journal.worker,
                attempt.number,
                attempt.request.endpoint.name,
                exchange.kind,
                identity.tenant,
                identity.key,
                identity.org,
                identity.team,
                identity.project,
                exchange.tags,
                exchange.asked,
                attempt.model,
                attempt.deployment,
                attempt.upstream,
                Estimate(
                    attempt.estimated_input_tokens,
                    attempt.output_cap,
                    attempt.estimate_nanodollars,
                    attempt.n,
                    attempt.reserved_tokens,
                ),
                attempt.holds,
                exchange.parent,
                exchange.started_by,
                self._policies_hash,
            )
        )
        try:
            self._journal.flush()
        except WeirError:
            self._journal.discard_last()
            unsent(attempt, settles, "journal_unavailable")
            raise

    # --- when it is over

    def settle(self, answer: Account, outcome: str, fault: Fault | None) -> None:
        """Called from the socket's callback, where a failure would leave everybody waiting."""
        try:
            self._settle(answer, outcome, fault)
        except Exception as error:
            self._metrics.count("internal_errors")
            self._log("error", "settle_failed", exchange=answer.attempt.exchange.id, error=type(error).__name__)

    def _settle(self, answer: Account, outcome: str, fault: Fault | None) -> None:
        attempt, reading = answer.attempt, answer.reading
        attempt.total_ns = time.perf_counter_ns() - attempt.started_ns
        attempt.outcome = outcome
        attempt.error = None if fault is None else fault.error.code or fault.error.type
        attempt.usage, attempt.served = reading.usage, reading.model
        attempt.tier = reading.service_tier or attempt.tier
        metered = attempt.request.endpoint.metered
        if not metered:
            attempt.nanodollars, attempt.known = 0, "observed"
            if attempt.request.endpoint.name == "responses.stored":
                self._goes_on.read(attempt)
        elif attempt.usage is None and self._goes_on.takes(answer, outcome):
            attempt.nanodollars, attempt.known = 0, "observed"  # another attempt stands for it
        else:
            self._price(answer, outcome, fault)
        attempt.exchange.charge(attempt.nanodollars)
        self._journal.append(_settled(attempt, self._journal.worker, answer))
        endpoint = attempt.request.endpoint.name
        self._metrics.attempt(
            endpoint,
            self._metrics.model_label(attempt.served or attempt.model),
            attempt.upstream,
            attempt.status if attempt.status is not None else attempt.error or outcome,
            None if attempt.ttft_ns is None else attempt.ttft_ns / 1e9,
            attempt.total_ns / 1e9,
            attempt.usage,
            attempt.nanodollars,
            attempt.known,
        )
        if answer.settles:
            if attempt.known == "observed" and attempt.usage is not None and isinstance(attempt.request.body, Body):
                self._tokens.learn(attempt.model, endpoint, attempt.request.body, attempt.usage.input_tokens)
            tell(answer.settles, attempt)
        if attempt.error == "upstream_key_refused":
            self._metrics.count("upstream_key_refused")
            self._log(
                "error",
                "upstream_key_refused",
                upstream=attempt.upstream,
                deployment=attempt.deployment,
                status=attempt.status,
            )

    def _price(self, answer: Account, outcome: str, fault: Fault | None) -> None:
        """What the attempt cost, and how that is known: observed, estimated, unknown (maybe billed), or unpriced."""
        attempt = answer.attempt
        upstream = answer.upstream
        if attempt.usage is not None and outcome in ("partial", "aborted") and answer.reading.finish_reason is None:
            # Told on the way (Anthropic's first event says what the input was): not yet what the whole used.
            so_far = max(attempt.usage.output_tokens, answer.estimated_output_tokens)
            attempt.usage = msgspec.structs.replace(attempt.usage, output_tokens=so_far, clamped=True)
        card = self.card(upstream, attempt.served or attempt.model) or self.card(upstream, attempt.model)
        if attempt.usage is not None:
            attempt.cards = self._cards_hash
            attempt.nanodollars = card.cost(attempt.usage, attempt.tier) if card is not None else None
            unpriced = attempt.nanodollars is None
            attempt.known = "unpriced" if unpriced else "estimated" if attempt.usage.clamped else "observed"
        elif not answer.sent or (outcome == "failed" and (fault is None or not fault.billed)):
            attempt.nanodollars, attempt.known = 0, "observed"
        elif card is None:
            attempt.nanodollars, attempt.known = None, "unpriced"
        elif outcome == "failed":
            attempt.nanodollars, attempt.known = attempt.estimate_nanodollars, "unknown"
        else:
            used = self._estimated(answer)
            attempt.nanodollars = card.cost(used, attempt.tier)
            attempt.known = "unpriced" if attempt.nanodollars is None else "estimated"

    def _estimated(self, answer: Account) -> Usage:
        """What an answer that tells no usage may have used. Speech is billed by what was read out, which is known."""
        attempt = answer.attempt
        request = attempt.request
        if isinstance(request.body, Body):
            read = self._tokens.estimate(attempt.model, request.endpoint.name, request.body)
            attempt.estimated_input_tokens = read
        text = request.field("input") if request.endpoint.name == "audio.speech" else None
        return Usage(
            input_tokens=attempt.estimated_input_tokens,
            output_tokens=answer.estimated_output_tokens,
            characters=len(text) if isinstance(text, str) else 0,
        )


def unsent(attempt: Attempt, settles: list[Settle], error: str) -> None:
    """The attempt ends here; the guards that admitted it are told that it cost nothing."""
    attempt.outcome, attempt.error, attempt.nanodollars = "failed", error, 0
    tell(settles, attempt)


def tell(settles: list[Settle], attempt: Attempt) -> None:
    attempt.settled = True
    for settle in reversed(settles):
        try:
            settle(attempt)
        except Exception as error:  # one guard's failure must not keep the others, or the answer, from ending
            attempt.exchange.note("guard", "settle_failed", error=type(error).__name__)


def ended(exchange: Exchange, worker: int, policies_hash: str, at_ns: int, total_ns: int) -> Ended:
    """The record of an exchange that is over."""
    identity = exchange.identity
    return Ended(
        at_ns,
        exchange.id,
        worker,
        exchange.kind,
        exchange.parent,
        exchange.status,
        exchange.outcome._value_ if exchange.outcome else "",
        identity.tenant,
        identity.key,
        identity.org,
        identity.team,
        identity.project,
        exchange.tags,
        exchange.endpoint,
        exchange.asked,
        len(exchange.attempts),
        total_ns,
        exchange.nanodollars,
        exchange.saved_nanodollars,
        policies_hash,
        exchange.decisions,
        exchange.savings,
        exchange.started_by,
    )


def _settled(attempt: Attempt, worker: int, answer: Account) -> Settled:
    usage = attempt.usage
    if usage is not None:
        given, tokens = usage.given, usage.counts()
    else:
        given, tokens = (
            None,
            {"input_tokens": attempt.estimated_input_tokens, "output_tokens": answer.estimated_output_tokens},
        )
    return Settled(
        time.time_ns(),
        attempt.exchange.id,
        worker,
        attempt.number,
        attempt.outcome,
        attempt.status,
        attempt.served,
        attempt.tier,
        given,
        tokens,
        attempt.nanodollars,
        attempt.known,
        attempt.cards,
        attempt.ttft_ns,
        attempt.total_ns,
        attempt.upstream_request_id,
        attempt.error,
    )
