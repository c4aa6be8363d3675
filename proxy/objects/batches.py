"""What clients' own batches cost: read where the provider's batch object says that one is over, and what it used.

Rules:
1. A batch is an exchange of its own (kind `batch`), by the client that looks at it first once it is over. Its id is the
   batch's, so that it counts once in the ledger, however often and by whichever worker it is looked at.
2. It is priced by the model that the object names, on the tier `batch`. An object that tells no usage says nothing.
3. Batches that Weir made itself are accounted for line by line (`defer_to_batch`), and not here.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from cachetools import LRUCache

from proxy.body import scan
from proxy.deferred import deployments, settled
from proxy.dispatch import Dispatch
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Exchange, Request
from proxy.response import Outcome, Response
from proxy.wire.sse import Event

ENDPOINT: Final = "batches"
OURS: Final = "weir_batch"
_OVER: Final = frozenset(("completed", "expired", "cancelled"))
_MOST_BYTES: Final = 2**20
_REMEMBERED: Final = 10_000


class Batches:
    """One worker's view of them."""

    def __init__(self) -> None:
        self._seen: LRUCache[str, bool] = LRUCache(_REMEMBERED)  # the ledger counts once; metrics should, too

    def watch(self, request: Request, response: Response, dispatch: Dispatch) -> None:
        """Looks at an answer as it passes."""
        pieces: list[bytes] = []

        def tap(event: Event | Outcome) -> None:
            if isinstance(event, Event):
                if sum(map(len, pieces)) + len(event.raw) <= _MOST_BYTES:
                    pieces.append(event.raw)
            elif event is Outcome.COMPLETE:
                self._read(b"".join(pieces), request, dispatch)

        response.tap(tap)

    def _read(self, body: bytes, request: Request, dispatch: Dispatch) -> None:
        try:
            told = orjson.loads(body)
        except ValueError:
            return
        listed = told.get("data") if isinstance(told, dict) and told.get("object") == "list" else [told]
        for one in listed if isinstance(listed, list) else []:
            if _tells(one) and one["id"] not in self._seen:
                self._seen[one["id"]] = True
                _account(one, request, dispatch)


def _tells(told: Any) -> bool:
    """Whether it is a batch that is over and says what it used."""
    return (
        isinstance(told, dict)
        and told.get("object") == "batch"
        and told.get("status") in _OVER
        and isinstance(told.get("usage"), dict)
        and all(isinstance(told.get(name), str) for name in ("id", "model", "endpoint"))
        and OURS not in (told.get("metadata") or {})
    )


def _account(told: dict[str, Any], request: Request, dispatch: Dispatch) -> None:
    endpoint, model, seen_by = endpoint_of("POST", told["endpoint"]), told["model"], request.exchange
    if endpoint is None or endpoint.dialect is None or not endpoint.metered or not seen_by.attempts:
        return
    try:
        places = deployments(dispatch, model)
    except WeirError:
        return
    there = seen_by.attempts[-1].upstream
    place = next((one for one in places if one.upstream.name == there), None)
    if place is None:
        return
    exchange = Exchange(
        seen_by.identity, endpoint.name, asked=model, tags=seen_by.tags, kind="batch", parent=seen_by.id, id=told["id"]
    )
    exchange.status, exchange.on_end = 200, seen_by.on_end
    path, said = told["endpoint"], orjson.dumps({"model": model, "usage": told["usage"]})
    asked = Request(exchange, endpoint, "POST", path.encode(), path, [], scan(orjson.dumps({"model": model})), model)
    settled(dispatch, asked, place, said, [])
    exchange.end(Outcome.COMPLETE)
    exchange.release()
