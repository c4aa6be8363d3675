"""Whose limits they are: subjects, and their stocks. Pure.

Without virtual keys the subject `key` is the tenant: the hash of the client's own key. What has no team, tag, … is a
subject of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from policies.ratelimit import config as options
from policies.ratelimit.config import Config, Limits
from policies.ratelimit.stock import Stock
from proxy.exchange import Request
from proxy.state.protocol import Part, Rate, Scope

NONE: Final = "(none)"
MOST: Final = 20_000
_SHORT: Final = {"second": "s", "minute": "m", "hour": "h", "day": "d"}

Subject = tuple[str, ...]


class Account(msgspec.Struct, eq=False):
    """One subject's limits: the first `requests` stocks count requests, the others tokens."""

    shown: str
    stocks: tuple[Stock, ...]
    rates: tuple[options.Rate, ...]  # as written, in the order of the stocks
    requests: int
    concurrency: tuple[Part] | None


def reader(dimension: str) -> Callable[[Request], str | None]:
    """How one part of a subject is read."""
    if dimension == "key":
        return lambda request: request.exchange.identity.key or request.exchange.identity.tenant
    if dimension == "model":
        return lambda request: request.model
    if dimension.startswith("tag:"):
        name = dimension[4:]
        return lambda request: request.exchange.tags.get(name)
    return lambda request: getattr(request.exchange.identity, dimension)


class Accounts:
    """The accounts of one policy, made when they are first asked for."""

    def __init__(self, name: str, config: Config) -> None:
        self._name = name
        self._config = config
        self._made: dict[Subject, Account] = {}
        self._readers = [reader(dimension) for dimension in config.per]

    def of(self, request: Request) -> Account:
        """The account of a request's subject."""
        subject = tuple([read(request) or NONE for read in self._readers])
        account = self._made.get(subject)
        return self._make(subject) if account is None else account

    def _make(self, subject: Subject) -> Account:
        if len(self._made) >= MOST:  # what they have in stock is given back by time
            self._made.clear()
        requests, tokens, at_once = self._limits("/".join(subject))
        key = f"{self._name}|{'|'.join(one.replace('|', '%7C') for one in subject)}"
        stocks = [Stock(_rate(f"req:{key}", rate)) for rate in requests]
        stocks += [Stock(_rate(f"tok:{key}", rate)) for rate in tokens]
        part = None if at_once is None else (Part(Scope(f"con:{key}", at_once), 1),)
        account = Account(self._shown(subject), tuple(stocks), (*requests, *tokens), len(requests), part)
        self._made[subject] = account
        return account

    def _limits(self, subject: str) -> tuple[Sequence[options.Rate], Sequence[options.Rate], int | None]:
        common, own = self._config, self._config.overrides.get(subject, Limits())
        requests = common.requests if own.requests is None else own.requests
        tokens = common.tokens if own.tokens is None else own.tokens
        return requests or (), tokens or (), common.concurrency if own.concurrency is None else own.concurrency

    def _shown(self, subject: Subject) -> str:
        named = zip(self._config.per, subject, strict=True)
        return ", ".join(f"{dimension.removeprefix('tag:')} {value}" for dimension, value in named) or "everybody"


def _rate(key: str, rate: options.Rate) -> Rate:
    return Rate(f"{key}|{_SHORT[rate.period]}", rate.amount, rate.period_ns, 1, rate.burst)
