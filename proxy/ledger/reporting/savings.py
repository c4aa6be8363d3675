"""What policies saved: claimed against a counterfactual, and observed against a control group.

Rules: pure. Two different things, never added up:

- *claimed*: each saving names what would have been called instead; what the policy itself spent (exchanges that it
  started: judges, shadow calls, embeddings) is deducted. A call that serves clients, such as one shared by several, is
  no overhead, though a policy started it.
- *observed*: with a `holdout`, some are never treated. The difference of the mean cost of an exchange, times the number
  of those treated, less the overhead; with an interval. Where each key is in one arm only, keys are what was drawn, and
  the interval is that of means over keys (a ratio estimator; Cochran, Sampling Techniques, 6.3); else that of exchanges
  (Welch).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from proxy.ledger.reporting.cells import Cell, Sums
from proxy.ledger.reporting.source import Arm, Saved
from proxy.ledger.reporting.statistic import Mean, half_interval

SERVING: Final = frozenset({"client", "shared", "batch", "flex", "revalidation"})
SQUARED_UNIT: Final = 10_000  # nano-dollars; `Arm.squares` is in these, squared


class Claim(msgspec.Struct, frozen=True):
    """What a policy claims, in nano-dollars. `unpriced`: attempts of its own that have no known price."""

    policy: str
    savings: int
    modelled: int
    observed: int
    overhead: int
    unpriced: int

    @property
    def gross(self) -> int:
        """Before the overhead."""
        return self.modelled + self.observed

    @property
    def net(self) -> int:
        """After the overhead."""
        return self.gross - self.overhead


class Effect(msgspec.Struct, frozen=True):
    """What a policy saved by comparison with its control group; means are nano-dollars an exchange.

    `low` and `high` enclose `net` with 95 % confidence; None where an arm has too few exchanges to tell.
    """

    policy: str
    treated: int
    held_out: int
    mean_treated: float
    mean_held_out: float
    overhead: int
    net: int
    low: int | None
    high: int | None
    by_key: bool


def claims(saved: Iterable[Saved], cells: Iterable[Cell]) -> list[Claim]:
    """Of each policy that claims or spends something, the largest net saving first."""
    numbers: dict[str, dict[str, int]] = {}
    for item in saved:
        own = numbers.setdefault(item.policy, {})
        own[item.known] = own.get(item.known, 0) + item.nanodollars
        own["savings"] = own.get("savings", 0) + item.savings
    overheads = overhead(cells)
    found = [
        Claim(
            policy,
            own.get("savings", 0),
            own.get("modelled", 0),
            own.get("observed", 0),
            overheads.get(policy, Sums()).nanodollars,
            overheads.get(policy, Sums()).unpriced,
        )
        for policy, own in (numbers | {policy: numbers.get(policy, {}) for policy in overheads}).items()
    ]
    return sorted(found, key=lambda claim: (-claim.net, claim.policy))


def overhead(cells: Iterable[Cell]) -> Mapping[str, Sums]:
    """What each policy spent on the exchanges that it started for itself."""
    found: dict[str, Sums] = {}
    for cell in cells:
        policy, kind = cell.belonging.policy, cell.belonging.kind
        if policy and kind not in SERVING:
            found.setdefault(policy, Sums()).add(cell.sums)
    return found


def observed(arms: Iterable[Arm], cells: Iterable[Cell]) -> list[Effect]:
    """Of each policy with both arms."""
    by_policy: dict[str, dict[str, list[Arm]]] = {}
    for arm in arms:
        by_policy.setdefault(arm.policy, {}).setdefault(arm.arm, []).append(arm)
    spent = overhead(cells)
    return [
        _effect(policy, own["treated"], own["holdout"], spent.get(policy, Sums()).nanodollars)
        for policy, own in sorted(by_policy.items())
        if _exchanges(own.get("treated", ())) and _exchanges(own.get("holdout", ()))
    ]


def _effect(policy: str, treated: Sequence[Arm], control: Sequence[Arm], spent: int) -> Effect:
    keys = [{_who(arm) for arm in arms} for arms in (treated, control)]
    by_key = not keys[0] & keys[1] and min(map(len, keys)) > 1
    mean = _of_keys if by_key else _of_exchanges
    with_it, without = mean(treated), mean(control)
    count = _exchanges(treated)
    net = round((without.mean - with_it.mean) * count) - spent
    width = half_interval(with_it, without)
    if width is not None:
        width *= count
    return Effect(
        policy,
        count,
        _exchanges(control),
        with_it.mean,
        without.mean,
        spent,
        net,
        None if width is None else round(net - width),
        None if width is None else round(net + width),
        by_key,
    )


def _of_exchanges(arms: Sequence[Arm]) -> Mean:
    count, amount = _exchanges(arms), sum(arm.nanodollars for arm in arms)
    squares = sum(arm.squares for arm in arms) * SQUARED_UNIT**2
    if count < 2:
        return Mean(amount / count, 0.0, 0)
    variance = max(0, squares - amount * amount // count) / (count - 1)
    return Mean(amount / count, variance / count, count - 1)


def _of_keys(arms: Sequence[Arm]) -> Mean:
    keys: dict[str, list[int]] = {}
    for arm in arms:
        own = keys.setdefault(_who(arm), [0, 0])
        own[0] += arm.exchanges
        own[1] += arm.nanodollars
    count, mean = _exchanges(arms), sum(amount for _, amount in keys.values()) / _exchanges(arms)
    squares = sum((amount - mean * own) ** 2 for own, amount in keys.values())
    return Mean(mean, squares * len(keys) / (len(keys) - 1) / count**2, len(keys) - 1)


def _who(arm: Arm) -> str:
    return arm.belonging.key or arm.belonging.tenant or ""


def _exchanges(arms: Iterable[Arm]) -> int:
    return sum(arm.exchanges for arm in arms)
