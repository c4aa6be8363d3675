"""`route`: another model than the one asked for, by rule, price, latency or score.

    - use: route
      rules:
        - {match: {language: [ja, ko, zh]}, to: qwen-max}
        - {match: {tokens: "> 100k"}, to: [gemini-2.5-flash, gpt-4.1], prefer: cost}
      to: [gpt-4o-mini, {model: llama-3.1-8b, lacks: [tools, vision]}]
      prefer: balanced
      max_latency: 3s

Rules:
1. The first rule that a request meets decides; where none does and the policy names no models, nothing changes.
2. A model that the client may not use is never chosen, nor one that can't do what the request needs, or has no room
   for it. If none is left, the request goes to the model it asked for.
3. A conversation stays at its model, unless that no longer fits, or a switch pays for the prompt cache that it loses.

What lives here: `config.py` what the file says, `choice.py` the decision, `needs.py` what requests need, `observed.py`
latencies, `seats.py` conversations, `scoring.py` the score, `claim.py` the saving, `layer.py` the layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.route.config import ASKED, Choice, Config, Rule
from policies.route.layer import Route
from policies.route.needs import routable
from proxy.chain import Services
from proxy.config import Order
from proxy.exchange import Request
from proxy.matching import Matchable

ORDER = Order(
    outside=("cascade", "fallback", "hedge", "retry"),
    inside=("cache", "coalesce", "timeout"),
    why="what it chooses is what is tried again, and what the cache keeps is the answer to what was asked",
)


def foretell(config: Config, request: Request) -> str:
    """What `weir explain` says about a request that meets this layer. Times of rules are read in UTC."""
    if not routable(request):
        return "lets it pass: another model can't answer it"
    facts = Matchable(request)
    for number, rule in enumerate(config.complete, 1):
        wanted, unwanted = rule.match.compile(), rule.unless.compile()
        if (wanted is None or wanted(facts)) and (unwanted is None or not unwanted(facts)):
            return f"rule {number}: {described(rule)}"
    return "lets it pass: it meets no rule"


def names(config: Config) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The models that requests may be sent to, and where they are written."""
    for number, rule in enumerate(config.rules):
        yield from _of(("rules", number), rule)
    yield from _of((), config)


def _of(where: tuple[str | int, ...], choice: Choice) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for index, target in enumerate(choice.to):
        if target.model != ASKED:
            yield (*where, "to", index), target.model


def described(rule: Rule) -> str:
    """A rule for people."""
    models = [target.model for target in rule.to]
    if len(models) == 1:
        return f"to {models[0]}, if it fits"
    by = {
        "order": "the first that fits",
        "score": f"the last where it is expected to be better by {rule.escalate_at:.0%}",
    }
    return f"to one of {', '.join(models)}, by {by.get(rule.prefer, rule.prefer)}"


def build(config: Config, services: Services) -> Route:
    """The policy for one entry of a policy file."""
    return Route(config, services)
