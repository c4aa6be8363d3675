"""`cascade`: a small model answers where that is proven to be good enough, a large one everywhere else.

- use: cascade
  rungs: [gpt-4o-mini, gpt-4o]
  max_quality_loss: 2 points
  judge: {equality: numeric}

What lives here: the module. `config.py` has the options; `answers.py`, `gates.py` and `schema.py` say what was asked
and what an answer is; `judging.py` how much worse one is than another; `evidence.py` what is known of a class of
traffic, by what `learning/` proves; `classes.py` and `shared.py` keep it, in all workers; `shadow.py` asks in the
background, `checking.py` whether an answer is right; `clusters.py` divides traffic by what is asked; `layer.py`,
`turn.py` and `course.py` are a request's way, `pairing.py` is what is learnt from it; `operating.py` what an operator
may ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from policies.cascade.answers import asked
from policies.cascade.config import Config, Judge, resolve
from policies.cascade.operating import operate
from proxy.chain import Services
from proxy.config import Order, globs
from proxy.exchange import Request

if TYPE_CHECKING:
    from policies.cascade.layer import Cascade

STORE: Final = True
ORDER: Final = Order(
    outside=("hedge", "fallback", "retry"),
    inside=("allow", "budget", "ratelimit", "cache", "coalesce"),
    why="each of the two models is tried again and falls back on its own, and what a cache knows needs neither",
)

__all__ = ["ORDER", "STORE", "Config", "Judge", "build", "foretell", "names", "operate", "resolve"]


def names(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The models that requests may be sent to, and where they are written."""
    yield from ((("rungs", index), rung) for index, rung in enumerate(config.rungs))
    if config.judge.model is not None:
        yield ("judge", "model"), config.judge.model
    if config.check is not None and config.check != "self":
        yield ("check",), config.check


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer."""
    if request.model is None or not globs(list(config.asked))(request.model):
        return f"passes by (it answers for {', '.join(config.asked)})"
    if asked(request) is None:
        return "passes by (its answers aren't understood)"
    first = f"asks {config.small}, and {config.large} where the answer isn't certified to be good enough"
    return f"{first}; until then {config.large if config.until_certified == 'large' else config.small} answers"


def build(config: Config, services: Services) -> Cascade:
    """The policy for one entry of a policy file."""
    try:
        from policies.cascade.layer import Cascade
    except ImportError as error:
        raise ValueError(f"cascade needs numpy: pip install 'weir-proxy[cascade]' ({error})") from None
    return Cascade(config, services)
