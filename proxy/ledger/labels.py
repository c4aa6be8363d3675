"""Dimensions: who, what and where, each set of them kept once, named by its own hash.

Rules: ids are made here and nowhere else. What records don't tell (cost centre, GL account, provider and its account)
is asked of `Accounts` when a set is first seen, and then stays: it is frozen at the time of use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from proxy.ledger.records import Ended, Reserved, Settled, clean

_MOST: Final = 200_000  # sets remembered; beyond it they are worked out again


class Billing(NamedTuple):
    """Whose prices an upstream has, and what its provider's invoice calls it."""

    provider: str | None = None
    account: str | None = None
    project: str | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the files say. `owner`: (key, team, project) -> (cost centre, GL account)."""

    owner: Callable[[str | None, str | None, str | None], tuple[str | None, str | None]] = lambda key, team, project: (
        None,
        None,
    )
    upstream: Callable[[str | None], Billing] = lambda name: Billing()


Values = tuple[str | None, ...]


def id_of(values: Values) -> int:
    """The id of a set of dimensions: the first 8 bytes of its SHA-256, signed."""
    return int.from_bytes(sha256(orjson.dumps(values)).digest()[:8], "big", signed=True)


def canonical_tags(raw: bytes) -> str:
    """Tags as JSON with sorted names."""
    found = orjson.loads(raw)
    tags = {clean(str(name)): clean(str(value)) for name, value in found.items()} if isinstance(found, dict) else {}
    return orjson.dumps(tags, option=orjson.OPT_SORT_KEYS).decode()


class Labels:
    """Ids of dimensions, remembered. `new` are those that may not be in the database yet."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._ids: dict[tuple[Any, ...], int] = {}
        self.new: dict[int, Values] = {}

    def of_attempt(self, reserved: Reserved, settled: Settled) -> int:
        """The dimensions of an attempt."""
        key = (
            reserved.tenant,
            reserved.org,
            reserved.team,
            reserved.project,
            reserved.key,
            bytes(reserved.tags),
            reserved.asked,
            reserved.model,
            settled.served,
            reserved.deployment,
            reserved.upstream,
            reserved.endpoint,
            reserved.kind,
            reserved.started_by,
            settled.tier,
            settled.known,
        )
        found = self._ids.get(key)
        return self._made(key) if found is None else found

    def of_exchange(self, ended: Ended) -> int:
        """The dimensions of an exchange."""
        key = (
            ended.tenant,
            ended.org,
            ended.team,
            ended.project,
            ended.key,
            bytes(ended.tags),
            ended.asked,
            None,
            None,
            None,
            None,
            ended.endpoint,
            ended.kind,
            ended.started_by,
            None,
            None,
        )
        found = self._ids.get(key)
        return self._made(key) if found is None else found

    def _made(self, key: tuple[Any, ...]) -> int:
        tenant, org, team, project, who, tags, asked, model, served, deployment, upstream, *rest = key
        endpoint, kind, started_by, tier, known = rest
        centre, account = self._accounts.owner(who, team, project)
        billing = self._accounts.upstream(upstream) if upstream is not None else Billing()
        values: Values = (
            *map(clean, (tenant, org, team, project, centre, account, who)),
            canonical_tags(tags),
            *map(clean, (asked, model, served, deployment, upstream, *billing)),
            *map(clean, (endpoint, kind, started_by, tier, known)),
        )
        if len(self._ids) >= _MOST:
            self._ids.clear()
        found = self._ids[key] = id_of(values)
        self.new[found] = values
        return found

    def forget(self) -> None:
        """Nothing is known to be in the database: a transaction failed, or the files changed."""
        self._ids.clear()
        self.new.clear()

    def reload(self, accounts: Accounts) -> None:
        """What the files say now holds for what comes next."""
        if accounts is not self._accounts:
            self._accounts = accounts
            self.forget()
