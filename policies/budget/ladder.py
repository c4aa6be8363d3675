"""The ladder: what happens as a budget fills. warn ▸ cheaper model ▸ cheaper tier ▸ batch ▸ queue ▸ refuse.

Pure. All steps that were reached hold together; of two that choose a model or a tier, the higher one counts. A step
that still spends stands below 100 %; at 100 % of a hard budget nothing is left to spend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from proxy.config.scalars import seconds, shown, wrong

Action = Literal["warn", "use_model", "tier", "batch", "queue", "refuse"]
_ACTIONS: Final = ("warn", "use_model", "tier", "batch", "queue", "refuse")
_SPENDS: Final = ("use_model", "tier", "batch")
_BATCH_S: Final = 86_400.0  # what providers take for a batch at most
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_TIERS: Final = ("flex",)


class Step(msgspec.Struct, frozen=True):
    """One rung. `share` is of the limit; `models` say what takes the place of which (`*`: of any)."""

    share: float
    action: Action
    models: tuple[tuple[str, str], ...] = ()
    tier: str = ""
    wait_s: float | None = None

    @property
    def percent(self) -> str:
        """As it was written, nearly."""
        return f"{self.share * 100:g}%"


class Verdict(msgspec.Struct, frozen=True):
    """What the steps that were reached say together."""

    warned: float | None = None  # the highest threshold reached
    models: tuple[tuple[str, str], ...] = ()
    tier: str = ""
    batch_s: float | None = None  # how long requests can wait for a batch
    wait_s: float | None = None
    refused: float | None = None

    def model(self, asked: str | None) -> str | None:
        """The model to use instead, or None."""
        for pattern, other in self.models:
            if asked is not None and other != asked and pattern in ("*", asked):
                return other
        return None


NOTHING: Final = Verdict()


def parse(value: object) -> tuple[Step, ...]:
    """The mapping of a policy file: `{80%: warn, 90%: {use_model: gpt-4o-mini}}`, from the lowest share up."""
    if isinstance(value, tuple) and all(isinstance(step, Step) for step in value):
        return value
    if not isinstance(value, dict):
        raise wrong(f"expected a mapping such as {{80%: warn}}, found {shown(value)}")
    steps = [step for key, said in value.items() for step in _steps(_share(key), said)]
    return tuple(sorted(steps, key=lambda step: step.share))


def written(steps: Iterable[Step]) -> dict[str, Any]:
    """The mapping that `parse` reads."""
    found: dict[str, Any] = {}
    for step in steps:
        said = found.setdefault(step.percent, {})
        said[step.action] = _said(step)
    return found


def _said(step: Step) -> Any:
    if step.action == "use_model":
        return dict(step.models)
    return step.tier if step.action == "tier" else step.wait_s if step.action in ("batch", "queue") else True


def _share(key: object) -> float:
    match = _SHARE.fullmatch(key.strip()) if isinstance(key, str) else None
    if match is None:
        raise wrong(f"expected a share such as 80%, found {shown(key)}", f"write {key}%" if str(key).isdigit() else "")
    return float(Decimal(match[1]) / 100)


def _steps(share: float, said: object) -> list[Step]:
    if isinstance(said, str):
        return [_step(share, said, None)]
    if isinstance(said, Mapping) and said:
        return [_step(share, str(action), value) for action, value in said.items()]
    raise wrong(f"expected a step such as warn or {{use_model: gpt-4o-mini}}, found {shown(said)}")


def _step(share: float, action: str, value: object) -> Step:
    if action not in _ACTIONS:
        raise wrong(f"{action!r} is no step", f"one of {', '.join(_ACTIONS)}")
    if share >= 1 and action in _SPENDS:
        raise wrong(f"{action} at {share * 100:g}% still spends", "put it below 100%")
    if share > 1:
        raise wrong(f"{share * 100:g}% is more than 100%")
    if action == "use_model":
        return Step(share, "use_model", _models(value))
    if action == "tier":
        if value not in _TIERS:
            raise wrong(f"expected a cheaper tier, found {shown(value)}", "write flex")
        return Step(share, "tier", tier=str(value))
    if action == "batch":
        return Step(share, "batch", wait_s=_BATCH_S if value in (None, True) else seconds(value))
    if action == "queue":
        return Step(share, "queue", wait_s=None if value in (None, True) else seconds(value))
    if value not in (None, True):
        raise wrong(f"{action} takes no value, found {shown(value)}", f"write {action}")
    return Step(share, "warn" if action == "warn" else "refuse")


def _models(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str) and value:
        return (("*", value),)
    if isinstance(value, Mapping) and value and all(isinstance(other, str) and other for other in value.values()):
        return tuple((str(asked), str(other)) for asked, other in value.items())
    raise wrong(f"expected a model, or a mapping of models, found {shown(value)}", "use_model: gpt-4o-mini")


def verdict(steps: Iterable[Step], share: float) -> Verdict:
    """What holds at this share used. `steps` come from the lowest share up."""
    found = NOTHING
    for step in steps:
        if share < step.share:
            break
        if step.action == "warn":
            found = msgspec.structs.replace(found, warned=step.share)
        elif step.action == "use_model":
            found = msgspec.structs.replace(found, models=(*step.models, *found.models))
        elif step.action == "tier":
            found = msgspec.structs.replace(found, tier=step.tier)
        elif step.action == "batch":
            found = msgspec.structs.replace(found, batch_s=step.wait_s)
        elif step.action == "queue":
            found = msgspec.structs.replace(found, wait_s=step.wait_s)
        else:
            found = msgspec.structs.replace(found, refused=step.share)
    return found
