"""What clients say about answers: `POST /weir/feedback`, and the header `x-weir-feedback` on a later request.

Rules:
1. Only the tenant that an exchange belongs to may rate it. For anybody else it doesn't exist (404).
2. A rating is a number from 0 to 1, or `good` or `bad`; the last word on an exchange by a key counts.
3. It is in the journal before it is acknowledged (so the ledger has it), then told to all workers by the Store's topic
   `feedback`, for whatever learns from it; a Store that is lost costs only that.
4. The header never delays or fails the request that it comes with, but where it can't be read: then 400. What it rates
   is looked up in the background, by a bounded number at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec
import orjson

from proxy.errors import WeirError
from proxy.exchange import Identity
from proxy.journal import Journal, Rated
from proxy.metrics import Metrics
from proxy.state.protocol import StateLost, Store

if TYPE_CHECKING:
    from proxy.control import Lookup

TOPIC: Final = "feedback"
HEADER: Final = "x-weir-feedback"
COMMENT: Final = 2000  # characters
AT_ONCE: Final = 32
_WORDS: Final = {"good": 1.0, "bad": 0.0}
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NUMBER: Final = re.compile(r"[01](?:\.[0-9]{1,9})?|\.[0-9]{1,9}")
_FIELDS: Final = frozenset(("exchange", "rating", "comment"))


class Given(msgspec.Struct, frozen=True):
    """A rating of an exchange, from 0 (bad) to 1 (good)."""

    exchange: str
    rating: float
    comment: str | None = None


class Message(msgspec.Struct, frozen=True):
    """A rating, as those who learn hear it, with what is known of the exchange."""

    at: int
    exchange: str
    tenant: str
    key: str | None
    rating: float
    endpoint: str | None
    asked: str | None
    served: str | None
    decisions: list[dict[str, Any]]


heard: Final = msgspec.json.Decoder(Message).decode
"""A message of the topic. Raises msgspec.MsgspecError for another version's."""


def of_body(raw: bytes) -> Given:
    """`{"exchange": id, "rating": 0.9 | "good" | "bad", "comment": …}`. Raises WeirError 400, naming the field."""
    try:
        told = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise WeirError(400, "The request's body is not valid JSON.", code="invalid_json") from None
    if not isinstance(told, dict):
        raise WeirError(400, "The request's body must be a JSON object.", code="invalid_json")
    if unknown := told.keys() - _FIELDS:
        name = min(unknown)[:100]
        message = f"`{name}` is no field of feedback: write exchange, rating and, if you like, comment."
        raise WeirError(400, message, code="unknown_parameter", param=name)
    exchange, comment = told.get("exchange"), told.get("comment")
    if not isinstance(exchange, str) or not _ID.fullmatch(exchange):
        raise _invalid("exchange", "`exchange` must be the id that an answer told as x-weir-exchange.")
    if comment is not None and (not isinstance(comment, str) or len(comment) > COMMENT):
        raise _invalid("comment", f"`comment` must be a text of at most {COMMENT} characters.")
    return Given(exchange, _rating(told.get("rating")), comment)


def _rating(value: Any) -> float:
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise _invalid("rating", "`rating` must be a number from 0 to 1, or good or bad.")


def _invalid(param: str, message: str) -> WeirError:
    return WeirError(400, message, code="invalid_value", param=param)


def of_header(text: str) -> Given:
    """`ID=good`, `ID=bad` or `ID=0.75`. Raises WeirError 400."""
    exchange, equals, word = (part.strip() for part in text.partition("="))
    if equals and _ID.fullmatch(exchange) and (word in _WORDS or (_NUMBER.fullmatch(word) and float(word) <= 1)):
        return Given(exchange, _WORDS[word] if word in _WORDS else float(word))
    message = f"{HEADER} must be the id of an exchange and its rating, such as ID=good, ID=bad or ID=0.75."
    raise WeirError(400, message, code="invalid_header", param=HEADER)


class Feedback:
    """One worker's."""

    def __init__(
        self,
        journal: Journal,
        store: Store | None,
        lookup: Lookup,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._journal = journal
        self._store = store
        self._lookup = lookup
        self._metrics = metrics
        self._spawn = spawn
        self._running = 0

    async def give(self, identity: Identity, given: Given) -> dict[str, Any]:
        """Takes a rating. Raises WeirError 404 where the exchange isn't this tenant's, 503 where it can't be kept."""
        found = await self._lookup("exchange", exchange=given.exchange, tenant=identity.tenant)
        if found is None:
            raise WeirError(404, "No exchange with this id is known for this key.", code="exchange_not_found")
        record = self._record(identity, given, found)
        self._journal.append(record)
        self._journal.flush()
        self._metrics.count("feedback_taken")
        if self._store is not None:
            self._spawn(self._publish(self._store, record, found), "tell of feedback")
        return {"exchange": given.exchange, "rating": given.rating}

    def later(self, identity: Identity, given: Given) -> None:
        """Takes a rating that came with another request: nobody waits for it."""
        if self._running >= AT_ONCE:
            self._metrics.count("feedback_dropped")
            return
        self._running += 1
        self._spawn(self._quietly(identity, given), "take feedback")

    async def _quietly(self, identity: Identity, given: Given) -> None:
        try:
            await self.give(identity, given)
        except WeirError:
            self._metrics.count("feedback_dropped")
        finally:
            self._running -= 1

    def _record(self, identity: Identity, given: Given, found: dict[str, Any]) -> Rated:
        return Rated(
            time.time_ns(),
            given.exchange,
            self._journal.worker,
            identity.tenant,
            identity.key,
            found.get("org"),
            found.get("team"),
            found.get("project"),
            found.get("endpoint"),
            found.get("asked"),
            _served(found),
            given.rating,
            given.comment,
            [f"{one.get('policy')}={one.get('action')}" for one in found.get("decisions") or ()],
        )

    async def _publish(self, store: Store, record: Rated, found: dict[str, Any]) -> None:
        message = Message(
            record.at,
            record.exchange,
            record.tenant,
            record.key,
            record.rating,
            record.endpoint,
            record.asked,
            record.served,
            list(found.get("decisions") or ()),
        )
        try:
            await store.publish(TOPIC, msgspec.json.encode(message))
        except StateLost:
            self._metrics.count("feedback_untold")


def _served(found: dict[str, Any]) -> str | None:
    """The model whose answer the client got."""
    for attempt in reversed(found.get("attempts") or ()):
        if attempt.get("outcome") == "complete":
            served: str | None = attempt.get("served") or attempt.get("model")
            return served
    return None
