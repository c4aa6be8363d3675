"""Keys are told to a worker as what differs from what it knows: it always ends up with the table that is in force."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.clients.keys import KeyRecord
from proxy.gently import at_once
from proxy.supervisor.fleet import PORTION, told_keys
from proxy.worker import Worker

RECORDS = st.builds(
    KeyRecord, st.sampled_from("ab"), st.sampled_from(["h1", "h2", "h3"]), team=st.sampled_from(["", "t"])
)
TABLES = st.lists(RECORDS, max_size=3, unique_by=lambda key: key.sha256).map(tuple)


@given(tables=st.lists(st.tuples(TABLES, st.booleans()), max_size=5))
def test_a_worker_knows_what_is_in_force(tables: list[tuple[tuple[KeyRecord, ...], bool]]) -> None:
    """After any changes, also some of which it may have missed."""
    told: Any = SimpleNamespace(keys=None)
    worker: Any = SimpleNamespace(_keys={})
    for table, missed in tables:
        message = told_keys(told, table)
        if missed:
            told.keys = None
            continue
        known = at_once(Worker._keys_of(worker, message))
        assert {key.sha256: key for key in known} == {key.sha256: key for key in table}


def test_nothing_new_is_nothing_told() -> None:
    """A reload that leaves the keys alone costs no time for them."""
    told: Any = SimpleNamespace(keys=None)
    table = (KeyRecord("a", "h1"), KeyRecord("b", "h2"))
    assert told_keys(told, table).keys() == {"keys"}
    assert told_keys(told, table) == {}
    assert told_keys(told, table[:1]) == {"changed_keys": [], "gone_keys": ["h2"]}


def test_thousands_are_read_in_steps() -> None:
    """A table that is all new has a step for each portion."""
    worker: Any = SimpleNamespace(_keys={})
    table = tuple(KeyRecord(str(number), f"h{number}") for number in range(2 * PORTION + 1))
    message = told_keys(SimpleNamespace(keys=None), table)  # type: ignore[arg-type]
    assert len([*Worker._keys_of(worker, message)]) == 3
    assert tuple(worker._keys.values()) == table
