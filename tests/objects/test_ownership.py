"""Which ids a path, a body and an answer name: the pure part of keeping tenants apart."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.body import scan
from proxy.objects.ownership import listed_in, made_in, named_in, named_in_path, used_by


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/files", []),
        ("/v1/files/file-1", ["file-1"]),
        ("/v1/files/anything-at-all/content", ["anything-at-all"]),
        ("/v1/vector_stores/vs_1/files/file-1", ["vs_1", "file-1"]),
        ("/v1/threads/runs", []),
        ("/v1/threads/thread_1/runs/run_1/cancel", ["thread_1", "run_1"]),
        ("/v1/fine_tuning/jobs/ftjob-1/events", ["ftjob-1"]),
        ("/v1/models/ft:gpt-4o:acme::1", ["ft:gpt-4o:acme::1"]),
        ("/v1/files/", None),
        ("/v1//files", None),
        ("/v1/files/../x", None),
        ("/v1/./files", None),
        ("/v1/files/a%2Fb", None),
        ("/v1/files/a;b", None),
        ("/v1/files/a\\b", None),
    ],
)
def test_paths(path: str, named: list[str] | None) -> None:
    """Whatever isn't a word of the API is an id; a path that can be read in two ways is none."""
    assert named_in_path(path) == named


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-10, 10), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "id", "file_id", "type", "data"]), inner, max_size=3),
    ),
    max_leaves=10,
)


@given(value=JSON, place=st.integers(0, 3))
def test_no_depth_hides_an_id(value: Any, place: int) -> None:
    """An id is found however deep it is and whatever stands around it."""
    for holder, hidden in (
        ({"file_id": "x1"}, "x1"),
        ({"any": "file-abcdef"}, "file-abcdef"),
        ({"file_ids": ["x1"]}, "x1"),
    ):
        nested: Any = holder
        for _ in range(place):
            nested = {"a": [value, nested]}
        assert hidden in named_in(nested)


@given(JSON)
def test_any_json(value: Any) -> None:
    """No JSON makes it fail."""
    named_in(value)
    made_in(value)
    listed_in(value)


def test_own_words_name_nothing() -> None:
    """Metadata is the client's own, up and down; so is what an answer repeats of the request."""
    assert named_in({"metadata": {"file_id": "file-abcdef"}}) == set()
    told = {"id": "resp_1", "metadata": {"file_id": "a"}, "tools": [{"file_id": "b"}], "input": [{"file_id": "c"}]}
    assert made_in(told) == {"resp_1"}


def test_what_an_answer_makes() -> None:
    """The object itself, its items, and what it says belongs to it; not every id that stands in it."""
    told = {
        "id": "batch_1",
        "output_file_id": "file-out",
        "error_file_id": None,
        "result_files": ["file-a", "file-b"],
        "output": [{"type": "message", "id": "msg_1", "content": [{"id": "not-this", "text": "file-abcdef"}]}],
        "user": {"id": "not-that"},
    }
    assert made_in(told) == {"batch_1", "file-out", "file-a", "file-b", "msg_1"}
    assert made_in([told]) == made_in("x") == set()


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({"messages": [{"content": "file-abcdef"}]}, set()),
        ({"messages": [{"content": [{"type": "file", "file": {"file_id": "f1"}}]}]}, {"f1"}),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, {"rs_1"}),
        ({"input": [{"type": "message", "id": "msg_1"}]}, set()),
        ({"conversation": {"id": "conv_1"}}, {"conv_1"}),
        ({"conversation": "conv_1"}, {"conv_1"}),
        ({"container": {"type": "auto"}, "tools": [{"container": {"type": "auto"}}]}, set()),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, {"cntr_1"}),
        ({"tools": [{"type": "code_interpreter", "container": "auto"}]}, set()),
        ({"tools": [{"function": {"parameters": {"properties": {"file_id": {"type": "string"}}}}}]}, set()),
        ({"messages": [{"content": [{"type": "tool_use", "input": {"file_id": "mine.txt"}}]}]}, set()),
        ({"metadata": {"file_id": "x"}, "user": "file_id"}, set()),
    ],
    ids=str,
)
@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
def test_used(fields: dict[str, Any], used: set[str], escaped: bool) -> None:
    """A request for an answer uses objects by its fields, however these are spelled; its texts may say anything."""
    raw = orjson.dumps(fields)
    if escaped:
        raw = raw.replace(b'_id"', rb'\u005fid"').replace(b'"con', rb'"\u0063on').replace(b"item_", rb"item\u005f")
    assert used_by(scan(raw)) == used
