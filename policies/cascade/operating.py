"""What an operator may ask of cascades: how they stand, to begin anew, to use a score. Called in the supervisor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from policies.cascade.shared import REPORTS, Message, Order, pack, topic_of
from proxy.errors import WeirError
from proxy.operating import Operating, no_such_operation
from proxy.state.protocol import Store


async def operate(operation: str, arguments: Mapping[str, Any], here: Operating) -> Mapping[str, Any]:
    """`status`, `reset` {policy, class}, `use` {policy, class, score}."""
    if operation not in ("status", "reset", "use"):
        raise no_such_operation("cascade", operation)
    if here.store is None:
        raise WeirError(409, "The workers share no state, so what they know can't be seen.", code="no_state")
    if operation == "status":
        return {"cascades": await _reports(here.store)}
    policy, traffic = str(arguments.get("policy") or "cascade"), str(arguments.get("class") or "")
    known = [each for each in await _reports(here.store) if each["policy"] == policy]
    if not known or (traffic and all(each["class"] != traffic for each in known)):
        raise WeirError(404, f"No cascade `{policy}` has such a class of traffic.", code="class_not_found")
    score = arguments.get("score", -1)
    if not isinstance(score, int):
        raise WeirError(400, "`score` is a number, or -1 for whichever is best.", code="invalid_body")
    await here.store.publish(topic_of(policy), pack(Message(traffic, "", Order(operation, score))))
    return {"policy": policy, "classes": [each["class"] for each in known if traffic in ("", each["class"])]}


async def _reports(store: Store) -> list[dict[str, Any]]:
    """What the workers wrote last, a few seconds ago."""
    found = []
    for key in await store.keys(REPORTS, 10_000):
        value = await store.get(key)
        try:
            told = msgspec.msgpack.decode(value) if value is not None else None
        except msgspec.MsgspecError:
            continue
        if isinstance(told, dict) and "class" in told:
            found.append(told)
    return found
