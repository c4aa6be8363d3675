"""The ledger's tables, for SQLite and PostgreSQL: what each row means, and nothing else.

Rules:
1. `attempts`, `exchanges` and `savings` are the rows: append-only, numbered by one sequence (`seq`), and covered by
   `blocks`, a chain of hashes. A correction is two more rows: one that reverses, one that says what is so.
2. `quarters`, `days` and their like are roll-ups: sums of the rows, changed in the same transaction. A report needs
   only them and `dimensions`.
3. A row is counted in its `quarter`: the quarter hour since 1970 (UTC; `quarter * 900` is Unix seconds) in which it
   happened, or, where that month was closed before the row came, the first one of the open month; then `reference`
   names the closed month. An attempt happens when it is settled.
4. A dimension's id is the start of the SHA-256 of its fields, so equal ones are one on every host, and a row's hash
   covers who, what and where. What isn't known is null; `tags` is JSON with sorted names, `{}` for none.
5. Amounts are integers of nano-dollars, null where no price is known (`known = 'unpriced'`); times end in their unit.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, Table, Text, UniqueConstraint, event, text

VERSION: Final = "2"
"""Another one needs a step in `proxy.ledger.migrating`: columns are only added, behind the others."""
QUARTER_S: Final = 900
QUARTERS_A_DAY: Final = 96

metadata: Final = MetaData()


_BIG: Final = BigInteger().with_variant(Integer(), "sqlite")  # there, only INTEGER PRIMARY KEY is the row's own number


def _big(name: str, *, null: bool = False, key: bool = False) -> Column[Any]:
    return Column(name, _BIG, nullable=null, primary_key=key, autoincrement=False)


def _text(name: str, *, null: bool = False, key: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=null, primary_key=key)


DIMENSIONS: Final = (
    "tenant",
    "org",
    "team",
    "project",
    "cost_centre",
    "gl_account",
    "key",  # the id of a virtual key
    "tags",
    "asked",  # the model that the client named
    "model",  # the one sent to the upstream
    "served",  # the one that the upstream says has answered
    "deployment",
    "upstream",
    "provider",
    "account",  # at the provider: with `provider_project`, what its invoice is joined by
    "provider_project",
    "endpoint",
    "kind",  # client, or what a detached exchange is for: judge, shadow, …
    "started_by",  # the policy that started it, if detached
    "tier",
    "known",  # observed, estimated, unknown, unpriced; null for exchanges
)
"""Who, what and where. Rows of exchanges and savings have no model, served, deployment, upstream, provider, tier and
known: they are about the client's request."""

dimensions: Final = Table("dimensions", metadata, _big("id", key=True), *(_text(n, null=True) for n in DIMENSIONS))

ENTRIES: Final = ("use", "adjustment", "reversal", "correction")
"""What a row of `attempts` is. An adjustment is a use that came after its month was closed; a reversal takes the row of
the same attempt before it back (amount and tokens negated); a correction says what is so instead."""

attempts: Final = Table(
    "attempts",
    metadata,
    _big("seq", key=True),
    _text("exchange"),
    Column("attempt", Integer, nullable=False),
    Column("version", Integer, nullable=False),  # 0; then 1 (reversal) and 2 (correction), 3 and 4, …
    _text("entry"),
    _text("reference", null=True),  # why it is an adjustment or a correction
    _big("dimension"),
    _big("quarter"),
    _big("at_ns"),
    _big("reserved_ns", null=True),  # when it was about to be sent
    _text("parent", null=True),  # the exchange that started this one
    _text("usage", null=True),  # JSON, as the upstream gave it
    _text("tokens"),  # JSON: the normalised counts, all that aren't 0, or what was estimated in their place
    _big("input_tokens"),  # these are what is counted: 0 where nothing was billed
    _big("output_tokens"),
    _big("cached_tokens"),
    _big("cache_write_tokens"),
    _big("reasoning_tokens"),
    _big("nanodollars", null=True),
    _text("cards"),  # the hash of the rate cards
    _big("ttft_ns", null=True),
    _big("total_ns"),
    _text("outcome"),
    Column("status", Integer, nullable=True),
    _text("error", null=True),
    _text("upstream_request_id", null=True),
    Column("worker", Integer, nullable=False),
    _text("told_by"),  # worker; state or ledger where the worker died before it could
    _big("estimate_input_tokens", null=True),
    _big("estimate_output_cap", null=True),
    _big("estimate_nanodollars", null=True),
    _text("policies_hash", null=True),  # of the policies that it was sent under
    UniqueConstraint("exchange", "attempt", "version", name="attempts_once"),
)
Index("attempts_quarter", attempts.c.quarter)
LATE: Final = text("at_ns - reserved_ns > 3600000000000")
"""Took more than an hour, as batches do. A query must say it in these words for its index to be used."""
_LATE_INDEX: Final = text(f"CREATE INDEX attempts_late ON attempts (quarter) WHERE {LATE.text}")
event.listen(attempts, "after_create", lambda table, db, **_: db.execute(_LATE_INDEX))  # no dialect is loaded for it

exchanges: Final = Table(
    "exchanges",
    metadata,
    _big("seq", key=True),
    _text("exchange"),
    _text("reference", null=True),
    _big("dimension"),
    _big("quarter"),
    _big("at_ns"),  # its end
    _text("parent", null=True),
    Column("worker", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    _text("outcome"),
    Column("attempts", Integer, nullable=False),
    _big("total_ns"),
    _big("nanodollars", null=True),  # as the worker summed it; what counts is the sum of its attempts' rows
    _big("saved_nanodollars"),
    _text("policies_hash"),
    _text("decisions"),  # JSON
    _text("arms", null=True),  # JSON: policy -> treated | holdout | not_rolled_out, of those with either
    UniqueConstraint("exchange", name="exchanges_once"),
)

savings: Final = Table(
    "savings",
    metadata,
    _big("seq", key=True),
    _text("exchange"),
    Column("number", Integer, nullable=False),
    _text("reference", null=True),
    _big("dimension"),  # the exchange's
    _big("quarter"),
    _big("at_ns"),
    _text("policy"),
    _big("nanodollars"),  # the counterfactual's cost less what was paid instead
    _text("model"),  # of the counterfactual
    _text("tokens"),  # JSON, of the counterfactual
    _big("input_tokens"),
    _big("output_tokens"),
    _text("known"),  # observed, modelled
    _text("arm", null=True),  # of this policy, if it draws
    _text("policies_hash"),  # the exchange's
    UniqueConstraint("exchange", "number", name="savings_once"),
)

feedback: Final = Table(
    "feedback",
    metadata,
    _text("exchange", key=True),
    _text("rater", key=True),  # the id of the key; "" without one
    _big("at_ns"),
    _text("tenant", null=True),
    _text("org", null=True),
    _text("team", null=True),
    _text("project", null=True),
    _text("endpoint", null=True),
    _text("asked", null=True),
    _text("served", null=True),
    Column("rating", Float, nullable=False),  # from 0 (bad) to 1 (good)
    _text("comment", null=True),
    _text("decisions"),  # JSON: what policies had done, as policy=action
)
"""What clients said of answers: the last word of each key. No money, so no part of the chain."""

# --- roll-ups

MEASURES: Final = (
    "exchanges",
    "exchanges_failed",  # whose client got a status of 400 or above, or none
    "attempts",  # uses less reversals, so a corrected one counts once
    "attempts_failed",
    "unpriced",  # attempts without a price, which are in no sum
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "nanodollars",
    "ttft_ns",
    "ttfts",  # attempts that have one
    "total_ns",  # of attempts
    "exchange_ns",  # of exchanges
)
SAVED: Final = ("savings", "nanodollars", "input_tokens", "output_tokens")
ARM: Final = ("exchanges", "nanodollars", "squares")
"""`squares` sums (nanodollars // 10,000)², for an interval around the mean."""


def _rolled(name: str, period: str, keys: tuple[str, ...], measures: tuple[str, ...]) -> Table:
    return Table(
        name,
        metadata,
        _big(period, key=True),
        _big("dimension", key=True),
        *(_text(key, key=True) for key in keys),
        *(_big(measure) for measure in measures),
        sqlite_with_rowid=False,
    )


quarters: Final = _rolled("quarters", "quarter", (), MEASURES)
days: Final = _rolled("days", "day", (), MEASURES)  # day = quarter // 96, days since 1970 (UTC)
saving_quarters: Final = _rolled("saving_quarters", "quarter", ("policy", "model", "known"), SAVED)
saving_days: Final = _rolled("saving_days", "day", ("policy", "model", "known"), SAVED)
arm_quarters: Final = _rolled("arm_quarters", "quarter", ("policy", "arm"), ARM)
arm_days: Final = _rolled("arm_days", "day", ("policy", "arm"), ARM)

ROLL_UPS: Final = ((quarters, days), (saving_quarters, saving_days), (arm_quarters, arm_days))

# --- the chain, closed months, and what is not yet in

blocks: Final = Table(
    "blocks",
    metadata,
    _big("number", key=True),
    _text("kind"),  # rows, close
    _big("at_ns"),
    _big("first_seq"),
    _big("last_seq"),  # first - 1 where there are none
    _big("first_quarter", null=True),
    _big("last_quarter", null=True),
    _text("previous"),  # the hash of the block before
    _text("digest"),  # SHA-256 of the rows, or of the closing
    _text("hash"),  # SHA-256 of all of the above
    _big("dropped_ns", null=True),  # when its rows were dropped; not part of the hash
)

closings: Final = Table(
    "closings",
    metadata,
    _text("month", key=True),  # 2026-11
    _text("zone"),
    _big("first_quarter"),
    _big("end_quarter"),  # the first that isn't in it
    _big("closed_ns"),
    _big("block"),
    _big("last_seq"),  # the last row that is counted in it, or before
    _big("attempts"),
    _big("nanodollars"),
    _text("rolled"),  # SHA-256 of its roll-ups
    _big("accrued_nanodollars"),
)

accruals: Final = Table(
    "accruals",
    metadata,
    _text("month", key=True),
    _text("exchange", key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    _big("reserved_ns"),
    _big("dimension"),
    _big("nanodollars", null=True),  # the estimate
)
"""Attempts sent in a closed month and not settled when it ended, as they stood when it was closed."""

open_attempts: Final = Table(
    "open_attempts",
    metadata,
    _text("exchange", key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    _text("host"),
    _text("segment"),
    _big("reserved_ns"),
    _text("record"),  # JSON, as journalled
)
"""Sent, and not settled yet."""

segments: Final = Table(
    "segments",
    metadata,
    _text("host", key=True),  # whose journal
    _text("name", key=True),
    _big("offset"),  # bytes that are in the ledger
    _big("last_ns", null=True),  # the last record's time
    _text("prefix", null=True),  # of the ids that its process gives
    _big("removed_ns", null=True),
)

meta: Final = Table("meta", metadata, _text("name", key=True), _text("value"))
