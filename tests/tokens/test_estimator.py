"""The four answers, as dispatch asks for them."""

from __future__ import annotations

import pytest

from proxy.state.protocol import Blobs, StateLost
from proxy.tokens import Estimator
from proxy.tokens.estimator import MODELS
from tests.tokens.conftest import body, chat

CHAT = "chat.completions"
PROSE = "A weir is a low wall in a river: it holds the water back, and lets what is too much of it pass. "


class Kept:
    """Blobs in a dictionary; lost on demand."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lost = False

    async def get(self, key: str) -> bytes | None:
        self._there()
        return self.values.get(key)

    async def put(self, key: str, value: bytes, ttl_s: float, tags: object = ()) -> None:
        self._there()
        self.values[key] = value

    async def delete(self, keys: object) -> int:
        raise NotImplementedError

    async def delete_tagged(self, tag: str) -> int:
        raise NotImplementedError

    async def keys(self, prefix: str, limit: int = 1000) -> list[str]:
        self._there()
        return sorted(key for key in self.values if key.startswith(prefix))[:limit]

    def _there(self) -> None:
        if self.lost:
            raise StateLost


def taught(times: int, ratio: float, model: str = "gpt-4o") -> Estimator:
    """An estimator whose model counts so many times its first estimate."""
    estimator = Estimator()
    first = Estimator().estimate(model, CHAT, chat(PROSE * 10))
    for _ in range(times):
        estimator.learn(model, CHAT, chat(PROSE * 10), round(first * ratio))
    return estimator


def test_a_chat() -> None:
    """English prose: within a tenth of 23 tokens a sentence, and 4 + 3 for its frame."""
    assert Estimator().estimate("gpt-4o", CHAT, chat(PROSE * 10)) == pytest.approx(237, rel=0.1)


def test_it_learns() -> None:
    """Usage corrects the next estimate, of this model alone."""
    estimator = taught(200, 1.4)
    fresh = Estimator().estimate("gpt-4o", CHAT, chat(PROSE * 10))
    assert estimator.estimate("gpt-4o", CHAT, chat(PROSE * 10)) == pytest.approx(fresh * 1.4, rel=0.03)
    assert estimator.estimate("gpt-4o-mini", CHAT, chat(PROSE * 10)) == fresh


def test_the_reservation_is_above_the_estimate() -> None:
    """Untaught, by the family's promise; taught by a model that is steady, by a step of the histogram."""
    estimate = Estimator().estimate("gpt-4o", CHAT, chat(PROSE * 10))
    assert Estimator().p99("gpt-4o", estimate) == pytest.approx(estimate * 1.5, abs=2)
    estimator = taught(500, 1.4)
    estimate = estimator.estimate("gpt-4o", CHAT, chat(PROSE * 10))
    assert estimate < estimator.p99("gpt-4o", estimate) < estimate * 1.1


def test_unknown_models_reserve_more() -> None:
    """Where even the tokenizer is a guess, the margin is wider."""
    assert Estimator().p99("nobody-knows", 1000) > Estimator().p99("gpt-4o", 1000)


def test_what_teaches_nothing() -> None:
    """No usage, opaque bodies, and input that stood elsewhere leave the estimates alone."""
    estimator = Estimator()
    stored = body(model="gpt-4o", input="go on", previous_response_id="resp_1")
    for _ in range(50):
        estimator.learn("gpt-4o", "responses", stored, 20_000)
        estimator.learn("gpt-4o", CHAT, chat("hi"), 0)
        estimator.learn("gpt-4o", CHAT, b"opaque", 10_000)
    assert estimator.estimate("gpt-4o", CHAT, chat("hi")) == Estimator().estimate("gpt-4o", CHAT, chat("hi"))


def test_what_cant_be_read_is_judged_by_its_size() -> None:
    """An opaque body is four bytes a token; so is an endpoint that nobody knows."""
    assert Estimator().estimate("whisper-1", "audio.transcriptions", b"x" * 400) == 100
    unknown = body(model="m", words="x" * 386)
    assert Estimator().estimate("m", "other", unknown) == pytest.approx(len(unknown) / 4, abs=1)


def test_images_and_tools_count() -> None:
    """An image is what one usually comes to; tools are their definitions."""
    estimator = Estimator()
    image = {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}
    seen = body(model="gpt-4o", messages=[{"role": "user", "content": [image]}])
    assert 765 <= estimator.estimate("gpt-4o", CHAT, seen) <= 780
    tool = {"type": "function", "function": {"name": "look", "description": PROSE * 5, "parameters": {}}}
    assert estimator.estimate("gpt-4o", CHAT, chat("hi", tools=[tool])) > 60


def test_names_from_clients_dont_fill_the_memory() -> None:
    """Beyond the most, models of a family share what is learnt."""
    estimator = Estimator()
    for number in range(3 * MODELS):
        estimator.estimate(f"made-up-{number}", CHAT, chat("hi"))
    assert len(estimator._models) <= MODELS + 20


async def test_kept_and_restored() -> None:
    """What one worker learnt, another starts with."""
    kept: Blobs = Kept()
    estimator = taught(200, 1.4)
    await estimator.persist(kept)
    other = Estimator()
    await other.restore(kept)
    request = chat(PROSE * 10)
    assert other.estimate("gpt-4o", CHAT, request) == estimator.estimate("gpt-4o", CHAT, request)
    assert other.p99("gpt-4o", 1000) == estimator.p99("gpt-4o", 1000)


async def test_workers_add_to_what_is_kept() -> None:
    """Two workers' lessons are added, each once, however often they are written."""
    kept = Kept()
    one, other = taught(100, 1.2), taught(100, 1.6)
    for _ in range(3):
        await one.persist(kept)
        await other.persist(kept)
    learnt = Estimator()
    await learnt.restore(kept)
    first = Estimator().estimate("gpt-4o", CHAT, chat(PROSE * 10))
    assert learnt.estimate("gpt-4o", CHAT, chat(PROSE * 10)) == pytest.approx(first * 1.4, rel=0.03)
    assert learnt._models["gpt-4o"].learned.count == 200


async def test_a_lost_store_costs_nothing_but_its_news() -> None:
    """While the Store is lost, estimates go on, and what was learnt is written when it is back."""
    kept = Kept()
    estimator = taught(50, 1.4)
    kept.lost = True
    await estimator.persist(kept)
    await Estimator().restore(kept)
    kept.lost = False
    await estimator.persist(kept)
    assert list(kept.values) == ["tokens/gpt-4o"]


async def test_what_is_kept_is_read_with_care() -> None:
    """Bytes that another version wrote are passed over, and replaced."""
    kept = Kept()
    kept.values["tokens/gpt-4o"] = b"old"
    estimator = taught(50, 1.4)
    await Estimator().restore(kept)
    await estimator.persist(kept)
    assert kept.values["tokens/gpt-4o"] == estimator.dump("gpt-4o")
    assert estimator.load("gpt-4o", b"old") is False
    assert Estimator().dump("gpt-4o") is None
