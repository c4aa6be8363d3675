"""What users see of a decision: the `x-weir-*` fields of an answer, and the cost behind a stream. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from proxy.cors import CorsRules
from proxy.exchange import Attempt, Exchange
from proxy.wire.call import http_date
from proxy.wire.headers import Headers
from proxy.wire.sse import comment

_NOTHING: Final = (b"x-weir-cost", b"0.000000000")  # no upstream was called


def fields(given: Headers, exchange: Exchange, cors: CorsRules | None, asked: Headers, whole: bool) -> Headers:
    """The answer's fields, with ours added."""
    headers = list(given)
    headers.append((b"x-weir-exchange", exchange.id.encode()))
    attempts = exchange.attempts
    if attempts:
        served = attempts[-1] if len(attempts) == 1 else _serving(attempts)
        if served.model:
            headers.append((b"x-weir-model", _printable(served.served or served.model)))
        if whole:
            headers.append((b"x-weir-cost", _cost(exchange)))
    else:
        headers.append((b"date", http_date()))
        if whole and exchange.status < 400:
            headers.append(_NOTHING)
    if exchange.savings:
        saved = exchange.saved_nanodollars  # below 0 where a policy chose what costs more
        headers.append((b"x-weir-saved", _dollars(saved) if saved >= 0 else b"-" + _dollars(-saved)))
    if exchange.decisions:
        if len(exchange.decisions) == 1:
            acted = f"{exchange.decisions[0].policy}={exchange.decisions[0].action}"
        else:
            acted = ", ".join(dict.fromkeys(f"{d.policy}={d.action}" for d in exchange.decisions))
        headers.append((b"x-weir-policies", _printable(acted)[:1024]))
    if cors is not None:
        headers.extend(cors.answer(asked))
    return headers


def _serving(attempts: list[Attempt]) -> Attempt:
    """The attempt whose answer this is: the last one that neither failed nor was given up for another."""
    return next((one for one in reversed(attempts) if one.outcome not in ("failed", "aborted")), attempts[-1])


def last_words(exchange: Exchange) -> bytes:
    """The cost of a stream, which its head could not tell, as a last comment."""
    return comment(b"weir exchange=%b cost=%b" % (exchange.id.encode(), _cost(exchange))).raw


def _cost(exchange: Exchange) -> bytes:
    """US dollars with nine decimals, that is to the nano-dollar; `unpriced` where no price is known."""
    return b"unpriced" if exchange.nanodollars is None else _dollars(exchange.nanodollars)


def _dollars(nanodollars: int) -> bytes:
    return b"%d.%09d" % divmod(nanodollars, 1_000_000_000)


@lru_cache(1024)
def _printable(text: str) -> bytes:
    return "".join([c if " " <= c <= "~" else "?" for c in text]).encode()
