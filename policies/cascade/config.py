"""The cascade's options, as a policy file gives them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from policies.budget.limits import Limit
from proxy.config.scalars import Duration, Names, Percent, Truth, shown, wrong

_POINTS = re.compile(r"(\d+(?:\.\d+)?)\s*points?")
_DOLLARS = re.compile(r"(\d+(?:\.\d{1,9})?)\s*USD")


def points(value: object) -> float:
    """`2 points` (of a hundred) as 0.02; a bare number or a percentage is refused, since it could mean two things."""
    if isinstance(value, float) and 0 < value <= 0.5:
        return value
    match = _POINTS.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        hint = "of 100 answers, how many may be worse: write 2 points"
        raise wrong(f"expected a loss such as 2 points, found {shown(value)}", hint)
    found = float(match[1]) / 100
    if not 0.001 <= found <= 0.5:
        raise wrong(f"{value} can't be certified", "between 0.1 points and 50 points")
    return found


Points = Annotated[
    float,
    BeforeValidator(points),
    WithJsonSchema({"title": "points", "type": "string", "pattern": _POINTS.pattern, "examples": ["2 points"]}),
]


def dollars(value: object) -> int:
    """`0.01 USD` in nano-dollars."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _DOLLARS.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise wrong(f"expected an amount such as 0.01 USD, found {shown(value)}")
    return round(Decimal(match[1]) * 10**9)


Dollars = Annotated[
    int,
    BeforeValidator(dollars),
    WithJsonSchema({"title": "dollars", "type": "string", "pattern": _DOLLARS.pattern, "examples": ["0.01 USD"]}),
]


class Labelled(BaseModel):
    """A pair of answers that a person has compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = ""
    """What was asked."""
    small: str
    """The small model's answer."""
    large: str
    """The large model's answer."""
    better: Literal["small", "large", "same"]
    """Which one the person found better."""


class Judge(BaseModel):
    """Who says how much worse a small answer is than a large one: one of `equality`, `model` and `feedback`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    equality: Literal["exact", "numeric", "json"] | None = None
    """The large answer is right, and an equal one too: by its words, by its last number, or as JSON."""
    model: str | None = None
    """A model that compares both answers, twice, in either order."""
    rubric: str | None = None
    """What makes an answer better, for that model."""
    feedback: Truth = False
    """What clients say of the small model's answers by `POST /weir/feedback` is all that counts; the large one's are
    taken for perfect."""
    labelled: str | None = None
    """A file of pairs that people have compared (JSON lines: `question`, `small`, `large`, `better`): how often the
    judge agrees with them is shown beside every certificate."""
    pairs: tuple[Labelled, ...] = ()
    """What that file says; it may be written here instead."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.equality is not None) + (self.model is not None) + self.feedback != 1:
            raise wrong("a judge is one of `equality`, `model` and `feedback`", "write {equality: numeric}")
        if self.rubric is not None and self.model is None:
            raise wrong("a rubric is for a model", "add `model`")
        return self


class Config(BaseModel):
    """A small model answers where that is proven to be good enough; a large one everywhere else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rungs: tuple[str, ...]
    """Two models, the small one first."""
    answers_for: Names | None = None
    """Models that clients ask for and the cascade answers; without it, the large one."""
    max_quality_loss: Points = Field(json_schema_extra={"examples": ["2 points"]})
    """How much worse answers may be on average than those of the large model, as the judge sees it."""
    confidence: Percent = Field(default=0.95, json_schema_extra={"default": "95%"})
    """How sure of that it must be."""
    judge: Judge
    """Who compares."""
    shadow_rate: Percent = Field(default=0.1, json_schema_extra={"default": "10%"})
    """The share of requests for which the other model is asked too, and both answers are judged."""
    shadow_limit: Limit | None = None
    """What these calls and the judge may cost together: `5 USD/day`; beyond it nothing is learnt."""
    until_certified: Literal["large", "small"] = "large"
    """Who answers while that isn't proven; `small` still passes on what can't be right."""
    per: Annotated[tuple[Literal["team", "project", "key", "tenant", "template"], ...], Field(max_length=5)] = ()
    """What else divides the traffic into classes that are proven one by one; `template` is the system prompt."""
    clusters: Annotated[int, Field(ge=2, le=20)] | None = None
    """Into how many classes the traffic is divided by what is asked; they are learnt from the first requests, a hundred
    for each."""
    streaming: Literal["auto", "route", "prefix", "buffer"] = "auto"
    """When a stream begins: at once, by the prompt alone (`route`); when its beginning has been looked at (`prefix`);
    when all of it has (`buffer`). `auto`: all of it where tools, JSON or several choices are asked for, else its
    beginning."""
    prefix_tokens: Annotated[int, Field(ge=1, le=1000)] = 32
    """How much of a stream `prefix` looks at."""
    prefix_time: Annotated[Duration, Field(gt=0)] | None = None
    """How long `prefix` waits for that at the most, from the first event on: what has come by then decides."""
    stays: Duration = Field(default=300.0, json_schema_extra={"default": "5m"})
    """How long a conversation that was escalated may stay with the large model, which has its prompt cached by then: it
    does where that is cheaper than asking the small model anew. `0s`: never."""
    second_worth: Dollars | None = None
    """What a second of waiting is worth, `0.01 USD`: where many answers are escalated, the large model is started
    beside the small one, if that costs less. Without it, never."""
    tools: Literal["call", "any"] = "call"
    """`call`: where tools are offered, a small answer that calls none isn't given; `any`: it may be."""
    logprobs: Truth = True
    """Asks the small model how sure it is of each token; the client doesn't see it unless it asked, too."""
    check: Annotated[str, Field(min_length=1)] | None = None
    """Who is asked, in one token, whether a small answer is right before it is given: `self`, the small model, or
    another one by its name. What it says is part of the score. Only of answers that are whole by then."""

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("per"), str):
            return {**given, "per": [given["per"]]}
        return given

    @model_validator(mode="after")
    def _two(self) -> Self:
        if len(self.rungs) != 2:
            more = "for three models write two entries, the outer one from the largest to the middle one"
            raise wrong(f"`rungs` are two models, the small one first; found {len(self.rungs)}", more)
        if self.rungs[0] == self.rungs[1]:
            raise wrong("both rungs are the same model", "name the small one first, then the large one")
        if self.rungs[0] in self.asked:
            raise wrong(f"`{self.rungs[0]}` can't be answered by a larger model", "leave it out of `answers_for`")
        if not 0.5 <= self.confidence < 1:
            raise wrong("`confidence` lies between 50% and 99.99%", "write 95%")
        if self.judge.feedback and self.until_certified == "large":
            raise wrong("nobody can rate the small model's answers if nobody gets them", "add until_certified: small")
        if self.check == self.large:
            raise wrong("a check by the large model costs as much as its answer", "write check: self")
        if self.check == "self" and not self.logprobs:
            raise wrong("what `check: self` says are probabilities", "leave out logprobs: false, or name another model")
        if self.shadow_limit is not None and self.shadow_limit.unit != "usd":
            raise wrong("`shadow_limit` is in dollars", "write 5 USD/day")
        return self

    @property
    def small(self) -> str:
        """The first rung."""
        return self.rungs[0]

    @property
    def large(self) -> str:
        """The last rung."""
        return self.rungs[-1]

    @property
    def checker(self) -> str | None:
        """The model that checks."""
        return self.small if self.check == "self" else self.check

    @property
    def asked(self) -> tuple[str, ...]:
        """The models that clients ask for."""
        return (self.large,) if self.answers_for is None else tuple(self.answers_for)


def resolve(options: dict[str, Any], files: Any) -> dict[str, Any]:
    """The options with what the file of `judge.labelled` says. In the supervisor, at each load."""
    judge = options.get("judge")
    name = judge.get("labelled") if isinstance(judge, dict) else None
    if not isinstance(judge, dict) or not isinstance(name, str):
        return options
    text = files.text(name, ("judge", "labelled"))
    found = list(judge.get("pairs", ()))
    for number, line in enumerate((text or "").splitlines(), 1):
        if line.strip():
            pair = _labelled(line)
            if isinstance(pair, str):
                files.report(name, number, pair, 'write {"question": …, "small": …, "large": …, "better": "same"}')
            else:
                found.append(pair.model_dump())
    return {**options, "judge": {**judge, "pairs": found}}


def _labelled(line: str) -> Labelled | str:
    try:
        return Labelled.model_validate(orjson.loads(line))
    except ValueError as error:
        return f"not a labelled pair: {str(error).splitlines()[0]}"
