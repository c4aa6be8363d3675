"""Scenario files: models, latencies, questions with known answers, and rules for faults, in YAML, checked by pydantic.

Unknown keys are errors. The same file and seed give the same course of faults for the same sequence of requests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from proxy.simulator import faults
from proxy.simulator.latency import Latency


def _latency(value: Any) -> Any:
    return value if isinstance(value, Latency) else Latency.parse(str(value))


def _share(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("%"):
        return float(value[:-1]) / 100
    return value


def _known(value: Any) -> Any:
    faults.parse(str(value))
    return value


Delay = Annotated[Latency, BeforeValidator(_latency), PlainSerializer(str)]
Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Latencies(_Strict):
    """Time to the first token, between tokens, and of a whole unary answer (default: as its tokens take)."""

    ttft: Delay | None = None
    per_token: Delay | None = None
    unary: Delay | None = None


class ModelEntry(Latencies):
    """A model, or what is different about one of the built-in ones."""

    kind: Literal["chat", "embedding", "image", "speech", "transcription", "moderation"] | None = None
    served: str | None = None
    accuracy: Share | None = None
    context: Annotated[int, Field(gt=0)] | None = None
    longest: Annotated[int, Field(gt=0)] | None = None
    talk: tuple[int, int] | None = None
    reasoning: tuple[int, int] | None = None
    owner: str | None = None
    dimensions: Annotated[int, Field(gt=0)] | None = None


class Rule(_Strict):
    """When a fault happens: every condition must hold. `nth` and `every` count the requests that meet the others."""

    fault: Annotated[str, BeforeValidator(_known)]
    model: str | None = None
    path: str | None = None
    stream: bool | None = None
    key: str | None = None
    nth: Annotated[int, Field(gt=0)] | None = None
    every: Annotated[int, Field(gt=0)] | None = None
    first: Annotated[int, Field(gt=0)] | None = None
    probability: Share | None = None


class Known(_Strict):
    """A question that contains `question` is answered with `right` or, as the model's accuracy has it, `wrong`."""

    question: str
    right: str
    wrong: str = "I do not know"


class Batched(_Strict):
    """How batches go: how long one takes, the share of its lines that fail, and how long cancelling takes."""

    takes: Delay = Latency.parse("0ms")
    fail: Share = 0.0
    cancel: Delay = Latency.parse("0ms")


class Flex(_Strict):
    """How requests on the tier `flex` go: the share that finds no room (429), and how much longer they take."""

    unavailable: Share = 0.0
    slower: Delay = Latency.parse("0ms")


class Scenario(_Strict):
    """The whole file."""

    version: Literal[1] = 1
    seed: int | None = None
    latency: Latencies = Latencies()
    models: dict[str, ModelEntry] = {}
    only_listed_models: bool = False
    answers: tuple[Known, ...] = ()
    faults: tuple[Rule, ...] = ()
    batches: Batched = Batched()
    flex: Flex | None = None


class ScenarioError(ValueError):
    """A scenario file that is not right; the message names file, place and reason."""


def load(path: Path) -> Scenario:
    """Read a scenario file. Raises ScenarioError and OSError."""
    try:
        return Scenario.model_validate(yaml.safe_load(path.read_text()) or {})
    except ValidationError as error:
        wrong = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ScenarioError("\n".join(wrong)) from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: {error}") from None
