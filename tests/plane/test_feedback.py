"""Feedback on the wire: who may rate what, what is kept, who hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from proxy import journal
from proxy.cli.app import run
from proxy.feedback import TOPIC, heard, of_header
from proxy.ledger.ingest import Ingest
from proxy.ledger.lookup import records_of
from proxy.ledger.opening import open_ledger
from proxy.ledger.ratings import ratings
from proxy.ledger.tables import feedback
from proxy.state.memory import MemoryStore
from proxy.why import render, why
from tests.plane.conftest import Serve
from tests.plane.running import Plane, key
from tests.wire.raw import Answer, chat, post

A, B, C = "authorization: Bearer wk-a", "authorization: Bearer wk-b", "authorization: Bearer wk-c"
KEYS = [
    key("wk-a", "a", team="search", org="acme"),
    key("wk-b", "b", team="docs", org="acme"),
    key("wk-c", "c", team="search", org="acme"),
]


async def asked(plane: Plane, *lines: str) -> str:
    """Makes an exchange; its id."""
    answer = await plane.send(post("/v1/chat/completions", chat(), *lines))
    assert answer.status == 200
    return (answer.header(b"x-weir-exchange") or b"").decode()


async def rated(plane: Plane, fields: Any, *lines: str) -> Answer:
    return await plane.post("/weir/feedback", fields, *lines)


async def test_a_rating(serve: Serve) -> None:
    """It is journalled before it is acknowledged, told by the Store's topic, and shown with the exchange."""
    store = MemoryStore()
    async with serve(keys=KEYS, store=store) as plane:
        id = await asked(plane, A)
        answer = await rated(plane, {"exchange": id, "rating": "bad", "comment": "no"}, A)
        (record,) = plane.journal("feedback")
        assert (answer.status, answer.json) == (200, {"exchange": id, "rating": 0.0})
        await rated(plane, {"exchange": id, "rating": 0.75}, A)
        await rated(plane, {"exchange": id, "rating": 1}, C)  # of the same team
        await plane.quiet()
        shown = (await plane.get(f"/weir/exchanges/{id}", A)).json
        messages = [heard(data) async for _, data in _kept(store, 3)]
        assert plane.metrics.snapshot()["events"]["feedback_taken"] == 3
    assert (record["exchange"], record["tenant"], record["key"], record["team"]) == (id, "acme/search", "a", "search")
    assert (record["rating"], record["comment"], record["asked"]) == (0.0, "no", "gpt-4o-mini")
    assert (record["endpoint"], record["served"]) == ("chat.completions", "gpt-4o-mini-2024-07-18")
    assert [(one["key"], one["rating"], one["comment"]) for one in shown["feedback"]] == [
        ("a", 0.75, None),
        ("c", 1, None),
    ]
    assert [(one.exchange, one.tenant, one.key, one.rating) for one in messages] == [
        (id, "acme/search", by, rating) for by, rating in (("a", 0.0), ("a", 0.75), ("c", 1.0))
    ]


async def _kept(store: MemoryStore, count: int) -> Any:
    async for one in store.follow(TOPIC, ""):
        yield one
        count -= 1
        if not count:
            return


async def test_never_across_tenants(serve: Serve) -> None:
    """For another tenant, or without a key, an exchange doesn't exist; nothing is kept of the attempt."""
    async with serve(keys=KEYS) as plane:
        id = await asked(plane, A)
        other = await rated(plane, {"exchange": id, "rating": 0}, B)
        unknown = await rated(plane, {"exchange": "0" * 20, "rating": 0}, B)
        nobody = await rated(plane, {"exchange": id, "rating": 0})
        await plane.send(post("/v1/chat/completions", chat(), B, f"x-weir-feedback: {id}=bad"))
        await plane.quiet()
        assert plane.journal("feedback") == []
        assert plane.metrics.snapshot()["events"]["feedback_dropped"] == 1
    assert (other.status, other.error["code"]) == (404, "exchange_not_found")
    assert (unknown.status, unknown.error) == (404, other.error)
    assert nobody.status == 401


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"rating": "good"}, "invalid_value", "exchange"),
        ({"exchange": "../x", "rating": "good"}, "invalid_value", "exchange"),
        ({"exchange": "x1"}, "invalid_value", "rating"),
        ({"exchange": "x1", "rating": 5}, "invalid_value", "rating"),
        ({"exchange": "x1", "rating": True}, "invalid_value", "rating"),
        ({"exchange": "x1", "rating": "fine"}, "invalid_value", "rating"),
        ({"exchange": "x1", "rating": 1, "comment": "x" * 2001}, "invalid_value", "comment"),
        ({"exchange": "x1", "rating": 1, "score": 1}, "unknown_parameter", "score"),
        ([1], "invalid_json", None),
    ],
)
async def test_what_is_no_rating(serve: Serve, fields: Any, code: str, param: str | None) -> None:
    """It is refused in OpenAI's form, with the field that is wrong."""
    async with serve() as plane:
        answer = await rated(plane, fields)
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)
        assert answer.error["type"] == "invalid_request_error"


async def test_only_by_post(serve: Serve) -> None:
    """Any other method is told which one would do."""
    async with serve() as plane:
        answer = await plane.get("/weir/feedback")
    assert (answer.status, answer.header(b"allow")) == (405, b"POST")


async def test_with_a_later_request(serve: Serve) -> None:
    """The header rates an earlier answer; it isn't sent on, and what can't be read is an error that names it."""
    async with serve() as plane:
        first = await asked(plane)
        await asked(plane, f"x-weir-feedback: {first}=good")
        await plane.quiet()
        (record,) = plane.journal("feedback")
        wrong = await plane.send(post("/v1/chat/completions", chat(), f"x-weir-feedback: {first}"))
        assert len(plane.journal("ended")) == 2
    assert (record["exchange"], record["rating"], record["comment"]) == (first, 1.0, None)
    assert (wrong.status, wrong.error["code"], wrong.error["param"]) == (400, "invalid_header", "x-weir-feedback")


@pytest.mark.parametrize(("text", "rating"), [("x=good", 1.0), ("x = 0.25", 0.25), ("x=1", 1.0), ("x=.5", 0.5)])
def test_the_header(text: str, rating: float) -> None:
    """Words and numbers from 0 to 1."""
    assert (of_header(text).exchange, of_header(text).rating) == ("x", rating)


async def test_in_the_ledger(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The last word of each key is a row; where the journal is gone, the ledger tells of it."""
    async with serve(keys=KEYS) as plane:
        id = await asked(plane, A)
        for rating, line in ((1, A), (0, A), (0.5, C)):
            await rated(plane, {"exchange": id, "rating": rating, "comment": "\0"}, line)
        home = plane.home
    engine = open_ledger("sqlite:///ledger.db", home)
    assert Ingest(engine, home).step().rejected == []
    with engine.connect() as db:
        found = db.execute(select(feedback).order_by(feedback.c.rater)).fetchall()
    assert [(row.exchange, row.rater, row.rating, row.team, row.comment) for row in found] == [
        (id, "a", 0.0, "search", "\ufffd"),
        (id, "c", 0.5, "search", "\ufffd"),
    ]
    told = why(records_of(engine, id))
    assert [(one["key"], one["rating"]) for one in told["feedback"]] == [("a", 0.0), ("c", 0.5)]
    assert "rated 0 by a" in render(told)
    assert [(one.value, one.count, one.mean, one.bad) for one in ratings(engine, "served")] == [
        ("gpt-4o-mini-2024-07-18", 2, 0.25, 1)
    ]
    assert [one.value for one in ratings(engine, "policy")] == [None]
    assert ratings(engine, "team", 2**62) == []
    engine.dispose()
    assert run(["ledger", "feedback", "--by", "team", "--home", str(home)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["search", "2", "0.25", "1"]
    assert run(["ledger", "feedback", "--by", "colour", "--home", str(home)]) == 1


def test_another_worker_takes_the_rating(tmp_path: Path) -> None:
    """Ratings stand in any worker's segments: the exchange is found all the same, each of them once, in order."""
    about: dict[str, Any] = {"tenant": "t", "key": None, "decisions": []}
    before, own, after = [journal.Journal(tmp_path / "journal", number) for number in range(3)]
    own.append({"event": "ended", "exchange": "x", "at": 1, **about})
    for at, writer in ((4, after), (2, own), (3, before)):
        writer.append({"event": "feedback", "exchange": "x", "at": at, **about})
        writer.append({"event": "feedback", "exchange": "z", "at": at, **about})
    for writer in (before, own, after):
        writer.close()
    assert [(record["event"], record["at"]) for record in journal.find(tmp_path, "x")] == [
        ("ended", 1),
        ("feedback", 2),
        ("feedback", 3),
        ("feedback", 4),
    ]
    assert journal.find(tmp_path, "z") == []
    assert journal.find(tmp_path, "y") == []
