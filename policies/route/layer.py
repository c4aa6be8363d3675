"""The layer of `route`: finds the rule, describes the models, sends the request to the best that takes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from policies.allowed import Allowed
from policies.route.choice import WAITING, Course, Offer, decided, fitting
from policies.route.claim import Claim
from policies.route.config import ASKED, Config, Rule, Target
from policies.route.needs import features_of, routable
from policies.route.observed import Observed
from policies.route.scoring import Scores
from policies.route.seats import Named, Seat, Seats, conversation_of
from proxy.body import Body
from proxy.chain import Services
from proxy.config.conditions import Predicate
from proxy.deferred import Grounds, deployments
from proxy.dialects import Usage
from proxy.dialects.request import facts as asked_of
from proxy.errors import WeirError
from proxy.exchange import Exchange, Forward, Request
from proxy.matching import Matchable
from proxy.pricing import RateCard
from proxy.response import Response
from proxy.upstreams.deployment import Bar, Deployment

_REFUSED: Final = frozenset(("model_not_allowed", "model_not_found"))  # by layers further in, before anything was sent


class Situation(msgspec.Struct):
    """One request, as its models are looked at."""

    request: Request
    rule: Rule
    number: int
    needs: frozenset[str]
    choices: int
    cap: int | None
    streamed: bool
    named: Named | None
    seat: Seat | None
    now: float
    wall_s: float


class Route:
    """The layer. `wall` tells Unix time."""

    def __init__(self, config: Config, services: Services, wall: Callable[[], float] = time.time) -> None:
        self._name, self._source = services.name, services.source
        self._services = services
        self._wall, self._clock = wall, services.clock
        entry = next((one for one in services.configuration.policies if one.name == services.name), None)
        zone = None if entry is None else entry.zone
        self._rules = [(rule, _applies(rule, zone)) for rule in config.complete]
        self._allowed = Allowed(services.configuration, services.name)
        self._seats = Seats(services.store if _several(services) else None, services.name)
        self._observed = Observed()
        self._scores = Scores(services, [_rungs(rule) for rule, _ in self._rules if rule.prefer == "score"])
        self._grounds: Grounds | None = None

    def begin(self, grounds: Grounds) -> None:
        """Where models are served, what they cost, and who may use them: other entries may have changed."""
        self._grounds = grounds
        self._allowed = Allowed(grounds.dispatch.routes.configuration, self._name)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if self._grounds is None or not routable(request):
            return await forward(request)
        facts = Matchable(request)
        for number, (rule, applies) in enumerate(self._rules, 1):
            if applies is None or applies(facts):
                return await self._route(await self._situation(request, rule, number), forward)
        return await forward(request)

    async def aclose(self) -> None:
        """Stops following the score."""
        self._scores.close()

    # --- what there is to choose from

    async def _situation(self, request: Request, rule: Rule, number: int) -> Situation:
        assert isinstance(request.body, Body)
        asked, wall_s = asked_of(request.endpoint.name, request.body), self._wall()
        named = None if rule.sticky == "off" and rule.prefer == "order" else conversation_of(request)
        seat = await self._seats.find(named, wall_s) if named is not None and named.begun else None
        needs = features_of(request)
        return Situation(
            request, rule, number, needs, asked.n, asked.output_cap, asked.stream, named, seat, self._clock(), wall_s
        )

    def _offers(self, at: Situation) -> list[Offer]:
        """Every model of the rule, as it stands for this request; each once."""
        asked = at.request.model or ""
        targets = {target.model if target.model != ASKED else asked: target for target in reversed(at.rule.to)}
        return [self._offer(at, model, target) for model, target in reversed(targets.items())]

    def _offer(self, at: Situation, model: str, target: Target) -> Offer:
        if not self._allowed.may_use(at.request, model):
            return Offer(model, "model_not_allowed")
        places = self._places(model)
        if not places:
            return Offer(model, "model_not_found")
        if at.needs & set(target.lacks):
            return Offer(model, f"lacks_{min(at.needs & set(target.lacks))}")
        body = at.request.body
        assert isinstance(body, Body) and self._services.tokens is not None
        tokens = self._services.tokens.estimate(model, at.request.endpoint.name, body)
        if all(place.bar(model, tokens, place.now) >= Bar.BROKEN for place in places):
            return Offer(model, "unavailable")
        return self._priced(at, model, target, tokens, places[0])

    def _priced(self, at: Situation, model: str, target: Target, tokens: int, place: Deployment) -> Offer:
        rule, card = at.rule, self._card(place, model)
        room = target.context or (card.context_window if card is not None else None)
        if room is not None and tokens + (at.cap or 0) > room:
            return Offer(model, "context")
        if rule.min_context is not None and (room is None or room < rule.min_context):
            return Offer(model, "min_context")
        warm = 0 if at.seat is None else min(at.seat.warm_at(model, at.wall_s, rule.warm_for), tokens)
        could = 0 if at.seat is None else min(max(at.seat.most(), warm), tokens)
        output = at.choices * self._observed.output_tokens(at.request.endpoint.name, at.cap)
        now, later = _cost(card, tokens, output, warm), _cost(card, tokens, output, could)
        latency_s = self._observed.latency_s(model, at.streamed, at.now)
        return Offer(model, _beyond(rule, now, latency_s), now, later, latency_s, warm)

    def _places(self, model: str) -> list[Deployment]:
        assert self._grounds is not None
        try:
            return deployments(self._grounds.dispatch, model)
        except WeirError:
            return []

    def _card(self, place: Deployment, model: str) -> RateCard | None:
        assert self._grounds is not None
        return self._grounds.dispatch.card(place, model)

    # --- where it goes

    async def _route(self, at: Situation, forward: Forward) -> Response:
        offers, request, rule = self._offers(at), at.request, at.rule
        barred = {offer.model: offer.bar for offer in offers if offer.bar}
        if not fitting(offers):
            self._note(at, "none_fits", request.model or "", "", barred)
            return await forward(request)
        present = None if at.seat is None else at.seat.model
        course = decided(
            offers,
            rule.prefer,
            at=present,
            sticky=rule.sticky,
            pays_within=rule.pays_within,
            gain=self._scores.gain(request, _rungs(rule)) if rule.prefer == "score" else None,
            escalate_at=rule.escalate_at,
        )
        by_model = {offer.model: offer for offer in offers}
        for number, model in enumerate(course.models):
            try:
                return await self._send(at, by_model[model], course, number, barred, forward)
            except WeirError as error:
                if error.code not in _REFUSED or request.exchange.attempts:
                    raise
                barred[model] = error.code
        self._note(at, "none_fits", request.model or "", "", barred)
        return await forward(request)

    async def _send(
        self, at: Situation, offer: Offer, course: Course, number: int, barred: dict[str, str], forward: Forward
    ) -> Response:
        request, exchange, model = at.request, at.request.exchange, offer.model
        known, decisions = len(exchange.attempts), len(exchange.decisions)
        why = course.why if number == 0 else "next"
        if model != request.model:
            self._claim(at, model)
        self._note(at, self._action(at, model, why), model, why, barred, offer, course.lost_nanodollars)
        seen = self._observed.of(model, at.streamed)
        seen.in_flight += 1
        exchange.defer(partial(self._ended, at, known, model))
        try:
            response = await forward(request.using(model=model))
        except WeirError as error:
            if error.code in _REFUSED and not exchange.attempts:
                del exchange.decisions[decisions:]  # it didn't go there
            raise
        response.headers = [*response.headers, (b"x-weir-route", told(model, at.number, why))]
        return response

    def _action(self, at: Situation, model: str, why: str) -> str:
        if why == "conversation":
            return "stayed"
        if at.seat is not None and at.seat.model != model:
            return "switched"
        return "kept" if model == at.request.model else "routed"

    def _claim(self, at: Situation, model: str) -> None:
        asked = at.request.model or ""
        places = self._places(asked)
        card = self._card(places[0], asked) if places else None
        if card is None:
            return
        warm = 0 if at.seat is None else at.seat.most()
        at.request.exchange.guard(Claim(self._name, at.request.exchange, asked, card, model, warm))

    def _note(
        self,
        at: Situation,
        action: str,
        model: str,
        why: str,
        barred: dict[str, str],
        offer: Offer | None = None,
        lost_nanodollars: int = 0,
    ) -> None:
        numbers: dict[str, Any] = {"rule": at.number, "model": model, "asked": at.request.model}
        if why:
            numbers["why"] = why
        if offer is not None:
            found = {
                "expected_nanodollars": offer.now_nanodollars,
                "latency_s": None if offer.latency_s == WAITING else offer.latency_s,
                "warm_tokens": offer.warm_tokens or None,
                "lost_nanodollars": lost_nanodollars or None,
            }
            numbers.update({name: value for name, value in found.items() if value is not None})
        if barred:
            numbers["passed_over"] = dict(barred)
        at.request.exchange.note(self._name, action, self._source, **numbers)

    # --- what came of it

    def _ended(self, at: Situation, known: int, model: str, exchange: Exchange) -> None:
        """Its attempts teach how long models take; its answer says where the conversation is."""
        self._observed.of(model, at.streamed).in_flight -= 1
        now, answered = self._clock(), None
        for attempt in exchange.attempts[known:]:
            self._observed.ended(attempt, at.streamed, now)
            if attempt.outcome in ("complete", "partial") and attempt.usage is not None:
                answered = attempt
        if at.named is None or answered is None or answered.usage is None or answered.request.model != model:
            return
        seat = at.seat or Seat(model, {})
        seat.answered(model, answered.usage, _caches(answered.request), self._wall(), at.rule.warm_for)
        self._seats.keep(at.named.key, seat)
        if self._seats.shared and self._services.spawn is not None:
            self._services.spawn(self._seats.tell(at.named.key, seat), "tell where a conversation is")


def _rungs(rule: Rule) -> tuple[str, str]:
    return rule.to[0].model, rule.to[-1].model


def _applies(rule: Rule, zone: Any) -> Predicate | None:
    wanted, unwanted = rule.match.compile(zone), rule.unless.compile(zone)
    if unwanted is None:
        return wanted
    return lambda facts: (wanted is None or wanted(facts)) and not unwanted(facts)


def _several(services: Services) -> bool:
    """Whether a conversation's next turn may come to another worker."""
    deployment = services.configuration.deployment
    return deployment.workers != 1 or deployment.state.startswith(("redis", "valkey"))


def _cost(card: RateCard | None, tokens: int, output: int, cached: int) -> int | None:
    if card is None:
        return None
    return card.cost(Usage(input_tokens=tokens, output_tokens=output, cached_tokens=cached), None)


def _beyond(rule: Rule, nanodollars: int | None, latency_s: float | None) -> str:
    """Which constraint doesn't hold."""
    if rule.max_usd is not None:
        if nanodollars is None:
            return "unpriced"
        if nanodollars > rule.max_usd * Decimal(10**9):
            return "max_usd"
    if rule.max_latency is not None and latency_s not in (None, WAITING) and latency_s > rule.max_latency:
        return "max_latency"
    return ""


def _caches(request: Request) -> bool:
    """Whether the upstream keeps the prompt: Anthropic's only where it is asked to."""
    body = request.body
    return request.endpoint.name != "messages" or (isinstance(body, Body) and b'"cache_control"' in body.raw)


def told(model: str, rule: int, why: str) -> bytes:
    """The header: where it went, by which rule, and why."""
    printable = "".join([letter if " " < letter <= "~" and letter not in ";," else "?" for letter in model])
    return f"{printable}; rule={rule}; {why}".encode()
