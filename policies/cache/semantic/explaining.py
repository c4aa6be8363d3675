"""Says what the semantic cache would make of a question, without asking anybody. Called in the supervisor.

It reads what the workers wrote (`shared.py`), so it knows what they knew some seconds ago.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from policies.cache.options import Config
from policies.cache.semantic.bound import NEVER
from policies.cache.semantic.features import NAMES, candidate, question
from policies.cache.semantic.learner import Learner
from policies.cache.semantic.lens import ground
from policies.cache.semantic.room import Rooms
from policies.cache.semantic.shared import Shared
from policies.cache.semantic.static import Static
from policies.cache.semantic.tier import FEWEST
from policies.cache.semantic.turn import turn_of
from policies.cache.semantic.vectors import embedder_of, kind_of, sentence_of
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Exchange, Identity, Request
from proxy.intake import model_of
from proxy.state.protocol import Store

_SHOWN: Final = 10
_DEPTH: Final = 64


class ToExplain(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `explain`: a request, who sends it, and the policy with its options."""

    policy: str
    options: dict[str, Any]
    identity: Identity
    path: str
    headers: list[tuple[str, str]]
    body: str


async def explain(arguments: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """What `weir cache explain` shows. Raises WeirError for a request that isn't one."""
    try:
        told = msgspec.convert(dict(arguments), ToExplain)
        config = Config.model_validate(told.options)
    except (msgspec.ValidationError, ValueError) as error:
        raise WeirError(400, f"What to explain isn't clear: {error}.", code="invalid_body") from None
    endpoint = endpoint_of("POST", told.path)
    if endpoint is None or not endpoint.parsed:
        raise WeirError(400, f"{told.path} has no requests that are compared.", code="invalid_body")
    body = scan(told.body.encode(), _DEPTH)
    exchange = Exchange(told.identity, endpoint=endpoint.name)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.headers]
    target, model = told.path.encode(), model_of(body)
    request = Request(exchange, endpoint, "POST", target, told.path, headers, body, model)
    return await explained(request, config, told.policy, store)


async def explained(request: Request, config: Config, policy: str, store: Store) -> dict[str, Any]:
    """Neighbours, score, features, decision."""
    assert config.semantic is not None
    static = Static()
    sentence = sentence_of(config.semantic)
    embedder = embedder_of(static, config.semantic, sentence)
    vary = frozenset(name.lower().encode() for name in config.exact.vary)
    turn = turn_of(request, config.exact.share, vary, embedder, config.semantic.longest)
    if isinstance(turn, str):
        return {"decision": "passes", "why": turn}
    if config.semantic.embedder == "upstream":
        return {"decision": "unknown", "why": "its vectors are made by an upstream", "partition": turn.partition}
    tenant = request.exchange.identity.tenant
    shared = Shared(store, policy, "", kind_of(embedder, config.semantic), config.exact.ttl)
    entries, learnt = await shared.past()
    learner = Learner(config.semantic.max_error)
    for name, state in learnt:
        if name == tenant:
            learner.restored(state)
    rooms = Rooms(config.semantic.entries)
    for stored in entries:
        if stored.tenant == tenant and stored.room == turn.partition:
            rooms.add(stored)
    room = rooms.get(turn.partition, tenant)
    found: dict[str, Any] = {
        "text": turn.text,
        "partition": turn.partition,
        "entries": 0 if room is None else len(room.partition),
        "status": learner.status,
        "labels": learner.labels,
        "max_error": learner.max_error,
        "threshold": learner.threshold if learner.threshold < NEVER else None,
        "audited_error": learner.realised(),
    }
    if room is None or len(room.partition) < FEWEST:
        return {**found, "decision": "asks upstream", "why": f"fewer than {FEWEST} entries in its partition"}
    asked = question(turn.text, static, None if sentence is None else await to_thread(sentence.vector, turn.text))
    if room.partition.wants_lens:
        room.partition.look_through(await to_thread(ground, *room.partition.to_lens()))
    near = room.partition.nearest(asked.vector)
    assert near is not None
    best = candidate(asked, near, room.partition, static, lambda group: learner.record(room.name(group)))
    score, parts = learner.weights.score(best.features), learner.weights.parts(best.features)
    serves, least = learner.serves(best.features, score), learner.least(best.features)
    found["threshold"] = least if least < NEVER else None
    neighbours = []
    for place, similar in list(zip(near.places.tolist(), near.similar.tolist(), strict=True))[:_SHOWN]:
        held = room.partition.held[place]
        assert held is not None
        named = {"entry": held.key, "text": held.text, "answer": room.name(held.group).hex()}
        neighbours.append({**named, "similarity": round(similar, 4), "candidate": held.group == best.group})
    features = {
        name: {"value": round(value, 4), "adds": round(parts[name], 3)}
        for name, value in zip(NAMES, best.features.tolist(), strict=True)
    }
    why = "the score reaches the threshold" if serves else f"{learner.status}: the score doesn't reach the threshold"
    if least >= NEVER:
        why = "no threshold can be certified yet"
    return {
        **found,
        "decision": "serves" if serves else "asks upstream",
        "why": why,
        "score": score,
        "neighbours": neighbours,
        "features": features,
    }
