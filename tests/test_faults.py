"""What an upstream's failure becomes: the pure mapping. `tests/plane/test_faults.py` sees it on the wire."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import faults
from proxy.wire.client import Progress, WireError

JSON = [(b"content-type", b"application/json")]
KINDS = [
    "refused",
    "dns",
    "connect_timeout",
    "tls",
    "proxy",
    "timeout",
    "reset",
    "malformed",
    "truncated",
    "pool",
    "new",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("progress", list(Progress))
def test_wire(kind: str, progress: Progress) -> None:
    """Before a byte left nothing was billed; after that the client is told not to replay."""
    fault = faults.of_wire(WireError(kind, progress, "0.1 s"))
    assert fault.billed is (progress is not Progress.CONNECTING)
    assert fault.error.status in (502, 503, 504)
    assert ((b"x-should-retry", b"false") in fault.error.headers) is fault.billed
    assert fault.error.code


@given(
    status=st.integers(200, 599),
    body=st.one_of(st.binary(max_size=200), st.just(b'{"error": {"message": "m"}}')),
    own=st.booleans(),
)
def test_statuses(status: int, body: bytes, own: bool) -> None:
    """Any status and body: never HTML, never a 2xx or 3xx for a failure, never 401 for our own key."""
    fault = faults.of_status(status, JSON, body, own)
    if fault is None:
        assert status < 300 or status == 304 or (400 <= status < 500 and isinstance(orjson.loads(body), dict))
        assert not (own and status in (401, 403))
        return
    assert 400 <= fault.error.status < 600
    assert fault.billed is (status >= 500 and status not in (503, 529))
    assert ((b"x-should-retry", b"false") in fault.error.headers) >= fault.billed
    told = orjson.loads(fault.error.body())["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["message"]


def test_what_is_kept_of_a_failure() -> None:
    """When to come back and the upstream's id of the request help the client; no other field does."""
    headers = [*JSON, (b"retry-after", b"7"), (b"x-request-id", b"req_1"), (b"set-cookie", b"a=b")]
    overloaded, failed = faults.of_status(529, headers, b"", False), faults.of_status(500, headers, b"", False)
    assert overloaded is not None
    assert set(overloaded.error.headers) == {(b"retry-after", b"7"), (b"x-request-id", b"req_1")}
    assert failed is not None
    assert set(failed.error.headers) == {(b"x-should-retry", b"false"), (b"x-request-id", b"req_1")}


@given(
    st.dictionaries(
        st.sampled_from(["message", "type", "code", "param", "status"]),
        st.one_of(st.none(), st.text(max_size=10), st.integers(), st.booleans(), st.lists(st.integers(), max_size=2)),
    ),
    st.booleans(),
    st.booleans(),
)
def test_events(error: dict[str, Any], first: bool, own: bool) -> None:
    """Any error object of a stream becomes an error in the API's form, and never a 401 for our own key."""
    fault = faults.of_event(error, first, own)
    assert fault.billed is not first
    assert not (own and fault.error.status in (401, 403))
    assert 400 <= fault.error.status < 600
    told = orjson.loads(fault.error.body())["error"]
    assert isinstance(told["message"], str)
    assert told["code"] is None or isinstance(told["code"], str)
    assert told["param"] is None or isinstance(told["param"], str)
