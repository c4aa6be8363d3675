"""What clients are told: OpenAI's `x-ratelimit-*` fields, Anthropic's, and the refusals. Pure.

Of several limits of a kind the one with the least left, by its share, is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Final, NamedTuple

from policies.ratelimit import config as options
from policies.ratelimit.stock import Stock, most_of
from policies.ratelimit.subjects import Account
from proxy.errors import NO_RETRY, OVERLOADED, RATE_LIMIT, WeirError
from proxy.wire.headers import Headers

CODE: Final = "rate_limit_exceeded"
OPENAI: Final = b"x-ratelimit-"
ANTHROPIC: Final = b"anthropic-ratelimit-"
_NAMES: Final = {
    kind: (b"x-ratelimit-limit-" + kind, b"x-ratelimit-remaining-" + kind, b"x-ratelimit-reset-" + kind)
    for kind in (b"requests", b"tokens")
}


def headers(accounts: Sequence[Account], now_s: float, unix_s: float, anthropic: bool = False) -> Headers:
    """How much is left, by kind."""
    told: Headers = []
    for kind in (b"requests", b"tokens"):
        found: list[Stock] = []
        for account in accounts:
            found += account.stocks[: account.requests] if kind == b"requests" else account.stocks[account.requests :]
        if found:
            stock = found[0] if len(found) == 1 else min(found, key=lambda one: _share(one, now_s))
            told += _anthropic(kind, stock, now_s, unix_s) if anthropic else _openai(kind, stock, now_s)
    return told


def replaced(given: Headers, told: Headers) -> Headers:
    """An answer's fields with ours in place of the upstream's, which speak of an account that many share."""
    return [pair for pair in given if not pair[0].startswith((OPENAI, ANTHROPIC))] + told


def _openai(kind: bytes, stock: Stock, now_s: float) -> Headers:
    left = stock.remaining(now_s)
    limit, remaining, reset = _NAMES[kind]
    return [
        (limit, b"%d" % stock.rate.limit),
        (remaining, b"%d" % left),
        (reset, duration(stock.reset_s(left)).encode()),
    ]


def _anthropic(kind: bytes, stock: Stock, now_s: float, unix_s: float) -> Headers:
    left = stock.remaining(now_s)
    resets = datetime.fromtimestamp(ceil(unix_s + stock.reset_s(left)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    prefix = ANTHROPIC + kind
    return [
        (prefix + b"-limit", b"%d" % stock.rate.limit),
        (prefix + b"-remaining", b"%d" % left),
        (prefix + b"-reset", resets.encode()),
    ]


def _share(stock: Stock, now_s: float) -> float:
    most = most_of(stock.rate)
    return stock.remaining(now_s) / most if most else 0.0


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `8.64s`, `6m0s`, `1h0m0s`; rounded up."""
    ms = ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    if ms < 60_000:
        whole, rest = divmod(ms, 1000)
        return f"{whole}.{rest:03d}".rstrip("0") + "s" if rest else f"{whole}s"
    minutes, rest = divmod(-(-ms // 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


# --- refusals


class Words(NamedTuple):
    """What every refusal says besides: whether to one of Anthropic's clients, and how much is left."""

    typed: bool
    left: Headers


def exceeded(
    name: str, whose: str, spoken: str, kind: str, cost: int, left: int, retry_s: float, words: Words
) -> WeirError:
    """A rate has not enough left; `retry_s` is 0 where it never will have."""
    whole = f"The rate limit `{name}` of {whose} is {spoken}"
    if not retry_s:
        message = f"{whole}: this request needs {cost}, more than ever fit at once. Ask for less, or set a lower cap."
        return _error(message, kind, words, NO_RETRY)
    needs = "" if cost == 1 else f", this request needs {cost}"
    message = f"{whole}: {left} are left{needs}. Please try again in {duration(retry_s)}."
    return _error(message, kind, words, *_again(retry_s))


def too_many(name: str, whose: str, limit: int, waited_s: float, words: Words) -> WeirError:
    """As many calls as may run at once do."""
    waited = f" None of them ended within {waited_s:g} s." if waited_s else ""
    message = f"The rate limit `{name}` of {whose} is {limit} requests at once, and so many are running.{waited}"
    return _error(message, "requests", words, *_again(1.0))


def unavailable(name: str) -> WeirError:
    """The Store can't be asked."""
    message = f"How much of the rate limit `{name}` is used can't be found out at the moment."
    return WeirError(503, message, type=OVERLOADED, code="ratelimit_unavailable", headers=_again(1.0))


def _error(message: str, kind: str, words: Words, *given: tuple[bytes, bytes]) -> WeirError:
    """OpenAI says as `type` what ran out, Anthropic that it is a rate limit."""
    return WeirError(429, message, type=RATE_LIMIT if words.typed else kind, code=CODE, headers=(*given, *words.left))


def _again(retry_s: float) -> tuple[tuple[bytes, bytes], ...]:
    return (b"retry-after", b"%d" % max(1, ceil(retry_s))), (b"retry-after-ms", b"%d" % max(1, ceil(retry_s * 1000)))


def spoken(rate: options.Rate, kind: str) -> str:
    """As a refusal says it."""
    burst = "" if rate.burst is None else f", {rate.burst} at once"
    return f"{rate.amount} {kind} a {rate.period}{burst}"
