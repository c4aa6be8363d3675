"""The options of a rate limit, as a policy file writes them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from proxy.config.problems import suggestion
from proxy.config.scalars import Duration, OneOrList, shown, wrong

DIMENSIONS: Final = ("key", "team", "project", "org", "model", "tenant", "tag:NAME")
PERIODS_S: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_SHORT: Final = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6}
_PATTERN: Final = r"(\d+(?:\.\d+)?)\s*([kKmM]?)\s*/\s*([a-z]+)(?:\s*,?\s*burst\s+(\d+(?:\.\d+)?)\s*([kKmM]?))?"
_RATE: Final = re.compile(_PATTERN)
_TAG: Final = re.compile(r"tag:[^\s:,=]+")


class Rate(msgspec.Struct, frozen=True):
    """So many in a period; `burst` at once, where that isn't the whole of it."""

    amount: int
    period: str
    burst: int | None = None

    @property
    def period_ns(self) -> int:
        """Its length."""
        return PERIODS_S[self.period] * 10**9

    @property
    def most(self) -> int:
        """The most at once."""
        return self.amount if self.burst is None else self.burst

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}" + ("" if self.burst is None else f", burst {self.burst}")


def rate(value: object) -> Rate:
    """`600/minute`, `90k/minute`, `2M/day`, `100/second, burst 20`."""
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise wrong(f"expected a rate such as 600/minute or 90k/minute, found {shown(value)}")
    period = _SHORT.get(found[3], found[3])
    if period not in PERIODS_S:
        raise wrong(f"{found[3]!r} is no period", suggestion(found[3], PERIODS_S))
    burst = None if found[4] is None else _whole(found[4], found[5])
    return Rate(_whole(found[1], found[2]), period, burst)


def _whole(number: str, unit: str) -> int:
    amount = float(number) * _UNITS[unit.lower()]
    if not amount.is_integer():
        raise wrong(f"{number}{unit} isn't a whole number")
    return int(amount)


def _dimension(value: str) -> str:
    if value not in DIMENSIONS[:-1] and not _TAG.fullmatch(value):
        raise wrong(f"{value!r} is nothing that a rate can be per", suggestion(value, DIMENSIONS))
    return value


OneRate = Annotated[
    Rate,
    PlainValidator(rate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"title": "rate", "type": "string", "examples": ["600/minute", "90k/minute", "100/second, burst 20"]}
    ),
]
Rates = Annotated[tuple[OneRate, ...], Field(min_length=1), OneOrList()]
Dimension = Annotated[str, AfterValidator(_dimension)]


class Limits(BaseModel):
    """What is limited. What isn't named has no limit, or, in an override, the common one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: Rates | None = None
    """Calls of an upstream in a time, or a list: all of them hold."""
    tokens: Rates | None = None
    """Tokens in a time, of the input and of the answer."""
    concurrency: int | None = Field(default=None, ge=1)
    """Calls of an upstream at once."""


class Config(Limits):
    """How many requests and tokens in a time, and how many at once."""

    per: Annotated[tuple[Dimension, ...], OneOrList()] = ()
    """`key`, `team`, `project`, `org`, `model`, `tenant`, `tag:NAME`, or a list: apart for each combination."""
    overrides: dict[str, Limits] = {}
    """Limits of single subjects; those of a combination are written `search/gpt-4o`."""
    wait: Duration = 0.0
    """How long a request waits for its turn before it is refused."""
    output: int = Field(default=500, ge=0)
    """Tokens that an answer is taken for in advance where the request has no cap; what it comes to counts later."""
    on_lost_state: Literal["admit", "refuse"] = "admit"
    """What happens while the state can't be asked: admitted and counted later, or refused with 503."""

    @model_validator(mode="after")
    def _fits(self) -> Any:
        named = (self, *self.overrides.values())
        if all(one.requests is None and one.tokens is None and one.concurrency is None for one in named):
            raise wrong("nothing is limited", "add requests: 600/minute, tokens: 90k/minute or concurrency: 20")
        if any(subject.count("/") + 1 < len(self.per) for subject in self.overrides):
            raise wrong(f"an override of a combination is written {'/'.join(self.per)}")
        return self
