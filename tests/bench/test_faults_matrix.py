"""The matrix of faults with one seed, and that its judge sees what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from bench.faults_matrix import run
from bench.faults_matrix.budget import overspent
from bench.faults_matrix.drive import ROWS, Drive, Told
from bench.faults_matrix.expected import CASES, Expect, expected
from bench.faults_matrix.judging import judge, stable
from bench.faults_matrix.kinds import KINDS, TENANTS, secret
from bench.faults_matrix.planes import world
from bench.faults_matrix.sdk import Sdk
from proxy.endpoints import understood_paths
from proxy.pricing import RateCards
from proxy.simulator import faults
from tests.wire.raw import Answer

CHAT, CHAT_STREAM = KINDS[0], KINDS[1]


@pytest.fixture(scope="module")
def cards() -> RateCards:
    return RateCards.from_bytes(RateCards.compile().to_bytes())


@pytest.mark.timeout(400)
def test_every_fault_on_every_endpoint(tmp_path: Path, cards: RateCards) -> None:
    """All 35 rows, each on every metered endpoint, streamed or not: what clients see, and what it costs."""
    told = Told()
    uvloop.run(run.one_seed(7, "", tmp_path, cards, told))
    assert told.wrong == []
    assert set(ROWS) <= set(told.by_row)
    assert told.cases > 1200


@pytest.mark.timeout(400)
def test_what_the_sdk_sees(tmp_path: Path, cards: RateCards) -> None:
    """Of every fault of a chat, streamed or not: what it raises, and how often it asks."""

    async def asking() -> list[str]:
        async with world(tmp_path, cards, 7, unreachable=False) as running:
            return await Sdk(running, 7, [CHAT, CHAT_STREAM]).run()

    assert uvloop.run(asking()) == []


def test_every_metered_endpoint_is_asked() -> None:
    """A new endpoint that costs money doesn't stay out of the matrix."""
    metered = {path for path, endpoint in understood_paths().items() if endpoint.metered}
    assert {kind.path for kind in KINDS} == metered


def test_every_numbered_fault_of_the_simulator_is_met() -> None:
    """Those that a request can ask for; the others are upstreams that can't be reached, and clients that leave."""
    drawn = {case.draw(Random(seed), kind).partition(":")[0] for case in CASES for kind in KINDS for seed in range(8)}
    numbered = {name for name, fault in faults.FAULTS.items() if fault.row != "-" and not fault.how}
    assert numbered <= drawn
    assert {case.row for case in CASES} == set(ROWS) - {1, 2, 3, 4, 35}
    for case in CASES:
        assert any(expected(case.draw(Random(0), kind), kind) for kind in KINDS), case


# --- the judge


def _records(**changes: Any) -> list[dict[str, Any]]:
    common = {"exchange": "x", "attempt": 1, "key": TENANTS[0]}
    settled = {"outcome": "complete", "known": "observed", "nanodollars": 5, **changes}
    return [
        {**common, "event": "reserved", "estimate": {"nanodollars": 9}},
        {**common, "event": "settled", **settled},
        {**common, "event": "ended"},
    ]


def _answer(body: bytes, status: int = 200, *headers: tuple[bytes, bytes], whole: bool = True) -> Answer:
    return Answer(status, [(b"content-type", b"application/json"), *headers], body, whole)


WORD = secret(TENANTS[0]).encode()
STREAM = b'data: {"a":"' + WORD + b'"}\n\ndata: [DONE]\n\n'
BROKEN = b'data: {"a":1}\n\ndata: {"error":{"message":"it broke"}}\n\n'
ERROR = b'{"error":{"message":"no","type":"t","param":null,"code":"c"}}'
NO_RETRY = (b"x-should-retry", b"false")
RIGHT = [
    (CHAT, Expect("whole"), _answer(b'{"a":"' + WORD + b'"}'), _records()),
    (CHAT_STREAM, Expect("whole"), _answer(STREAM), _records()),
    (CHAT_STREAM, Expect("broken"), _answer(BROKEN), _records(outcome="partial", known="estimated")),
    (CHAT, Expect("passed", 429, "c"), _answer(ERROR, 429), _records(outcome="failed", nanodollars=0)),
    (
        CHAT,
        Expect("maybe", 502),
        _answer(ERROR, 502, NO_RETRY),
        _records(outcome="failed", known="unknown", nanodollars=9),
    ),
    (CHAT, Expect("unbilled", 502, "c", True), _answer(ERROR, 502), _records(outcome="failed", nanodollars=0)),
]


@pytest.mark.parametrize(("kind", "expect", "answer", "records"), RIGHT)
def test_the_judge_passes_what_is_right(kind: Any, expect: Expect, answer: Answer, records: list[Any]) -> None:
    """So that the next test's verdicts mean something."""
    assert judge(kind, TENANTS[0], expect, answer, records) == []


OTHER = secret(TENANTS[1]).encode()


@pytest.mark.parametrize(
    ("at", "changed", "found"),
    [
        (0, {"whole": False}, "cut"),
        (0, {"body": b'{"a":"' + WORD}, "damaged"),
        (0, {"body": b'{"a":"' + WORD + OTHER + b'"}'}, "I4"),
        (0, {"body": b"{}"}, "own word"),
        (1, {"body": b'data: {"a":"' + WORD + b'"}\n\n'}, "no end"),
        (2, {"body": BROKEN + b"data: [DONE]\n\n"}, "looks whole"),
        (2, {"body": b'data: {"a":1}\n\n'}, "no error"),
        (3, {"status": 200}, "status"),
        (3, {"body": b"<html>"}, "no error"),
        (4, {"headers": [(b"content-type", b"application/json")]}, "not to replay"),
        (5, {"headers": [(b"content-type", b"application/json"), NO_RETRY]}, "opposite"),
    ],
)
def test_the_judge_sees_a_wrong_answer(at: int, changed: dict[str, Any], found: str) -> None:
    """Each by itself."""
    kind, expect, answer, records = RIGHT[at]
    wrong = judge(kind, TENANTS[0], expect, replace(answer, **changed), records)
    assert any(found in each for each in wrong), wrong


@pytest.mark.parametrize(
    ("at", "records", "found"),
    [
        (0, _records()[:1] + _records()[2:], "I3"),
        (0, [*_records(), _records()[1]], "I3"),
        (0, _records()[:2], "0 ends"),
        (0, [{**record, "key": "otter"} for record in _records()], "another key"),
        (0, _records(nanodollars=0), "0 nano-dollars"),
        (0, _records(known="estimated"), "settled as"),
        (2, _records(), "settled as"),
        (3, _records(outcome="failed", nanodollars=1), "wasn't billed"),
        (4, _records(outcome="failed", known="unknown", nanodollars=0), "instead of the estimate"),
    ],
)
def test_the_judge_sees_wrong_accounts(at: int, records: list[Any], found: str) -> None:
    """Each by itself."""
    kind, expect, answer, _ = RIGHT[at]
    wrong = judge(kind, TENANTS[0], expect, answer, records)
    assert any(found in each for each in wrong), wrong


def test_events_are_compared_without_ids_and_times() -> None:
    """But with everything else."""
    one = b'data: {"id":"chatcmpl-0123456789abcdef","created":1795420000,"a":"b"}\n\n'
    same = b'data:{"id":"chatcmpl-fedcba9876543210","created":1795420001,"a":"b"}\r\n\r\n'
    assert stable(one) == stable(same) != stable(one.replace(b'"b"', b'"c"'))


def test_a_plane_that_hides_faults_is_seen(tmp_path: Path, cards: RateCards, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix fails where clients would be told nothing: here by a table that expects another status."""
    rows = [case for case in CASES if case.name == "529"]
    monkeypatch.setattr("bench.faults_matrix.drive.expected", lambda fault, kind: Expect("whole"))

    async def asking() -> list[str]:
        async with world(tmp_path, cards, 7, unreachable=False) as running:
            return [wrong for one in await Drive(running, 7, [CHAT], rows).run() for wrong in one.wrong]

    assert uvloop.run(asking())


def test_no_fault_overspends_a_budget(tmp_path: Path, cards: RateCards) -> None:
    """I2: with a budget that isn't enough for all, what is spent stays below it, and nothing stays reserved."""
    admitted, refused, wrong = uvloop.run(overspent(tmp_path, cards, 7))
    assert wrong == []
    assert admitted > 50
    assert refused > 50
