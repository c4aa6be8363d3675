"""Ratings of answers that came from another question: what they teach, and whom."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.cache.semantic.learner import Label
from policies.cache.semantic.rated import Rated
from proxy.feedback import Message
from proxy.state.memory import MemoryStore
from tests.plane.conftest import Serve
from tests.policies.cache.semantic.test_tier import how, policy, questions
from tests.policies.cache.semantic.upstream import Scripted, scripted
from tests.policies.test_coalesce import until

WRONG = Label((0.5,), 0.9, right=False)


def told(exchange: str = "x", tenant: str = "t", rating: float = 0.0) -> bytes:
    return msgspec.json.encode(Message(1, exchange, tenant, None, rating, None, None, None, []))


@pytest.mark.parametrize(
    ("messages", "learnt"),
    [
        ([told()], 1),
        ([told(rating=0.49)], 1),
        ([told(), told()], 1),
        ([told(rating=0.5)], 0),
        ([told(rating=1.0), told()], 1),
        ([told(exchange="y")], 0),
        ([told(tenant="other")], 0),
        ([b"?"], 0),
    ],
)
async def test_what_counts(messages: list[bytes], learnt: int) -> None:
    """A bad word by the tenant that got the answer, once; nothing else."""
    heard: list[tuple[str, Label]] = []

    async def learn(tenant: str, label: Label) -> None:
        heard.append((tenant, label))

    rated = Rated(learn)
    rated.gave("x", "t", WRONG)
    for message in messages:
        await rated.hear(message)
    assert heard == [("t", WRONG)] * learnt


@pytest.fixture
async def provider() -> Any:
    async with scripted(lambda text: "Open the settings.") as running:
        yield running


async def test_on_the_wire(serve: Serve, provider: Scripted) -> None:
    """A client says that an answer was bad: the tenant's learner has one wrong answer more, and no audit."""
    async with serve(url=provider.url, policies=[policy()], store=MemoryStore()) as plane:
        hit = None
        for number, text in enumerate(questions(60)):
            answered = await plane.chat(messages=[{"role": "user", "content": text}])
            tier = plane.plane.state.chain.built[0].policy._semantic  # type: ignore[attr-defined]
            learner = tier.knowledge.learner("anonymous")
            learner.threshold = 0.0 if number > 20 else learner.threshold
            if how(answered) == "semantic":
                hit = answered
                break
        assert hit is not None
        await plane.quiet()
        before, audits = learner.labels, learner.audited()
        id = (hit.header(b"x-weir-exchange") or b"").decode()
        assert (await plane.post("/weir/feedback", {"exchange": id, "rating": "bad"})).status == 200
        await until(lambda: learner.labels > before)  # the feed has brought it
        assert (learner.labels, learner.audited()) == (before + 1, audits)
        assert ("cache", "rated_wrong", 1) in plane.metrics.snapshot()["decisions"]
