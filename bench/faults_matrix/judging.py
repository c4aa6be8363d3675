"""Whether what the client saw and what the journal says are right: a list of what is wrong, each in a few words.

Pure. The invariants that can be seen from one case: I3 one settlement for each attempt, I4 no byte of another tenant's,
I5 an answer, or an abort that shows. I1 is looked at when a request arrives upstream, I2 over a whole run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from bench.faults_matrix.expected import Expect
from bench.faults_matrix.kinds import TENANTS, Kind, secret
from tests.plane.running import UPSTREAM_KEY
from tests.wire.raw import Answer

Record = dict[str, Any]
_SETTLED = {
    "whole": ("complete", {"observed"}),
    "estimated": ("complete", {"estimated"}),
    "passed": ("failed", {"observed"}),
    "unbilled": ("failed", {"observed"}),
    "maybe": ("failed", {"unknown"}),
    "broken": ("partial", {"observed", "estimated"}),
}
_DIFFERS = re.compile(rb'"(?:\\.|[a-z]+_)?[0-9a-z-]*[0-9a-f]{12,}"|[0-9]{9,}')


def judge(kind: Kind, tenant: str, expect: Expect, answer: Answer, records: Sequence[Record]) -> list[str]:
    """What is wrong with one case."""
    outcome = expect.outcome
    if outcome == "broken or maybe":
        expect = Expect("broken") if answer.status == 200 else Expect("maybe", expect.status)
    seen = {"whole": _whole, "estimated": _whole, "broken": _broken}.get(expect.outcome, _refused)
    return [
        *seen(kind, expect, answer),
        *tenancy(kind, tenant, expect, answer),
        *accounts(kind, expect, tenant, records),
    ]


def _whole(kind: Kind, expect: Expect, answer: Answer) -> Iterator[str]:
    if (answer.status, answer.whole) != (200, True):
        yield f"status {answer.status}{'' if answer.whole else ', cut'} instead of the answer: {answer.body[:200]!r}"
    elif kind.done and kind.done not in answer.body:
        yield "the stream has no end"
    elif kind.shape == "json":
        try:
            orjson.loads(answer.body)
        except ValueError:
            yield "its JSON is damaged"


def _broken(kind: Kind, expect: Expect, answer: Answer) -> Iterator[str]:
    if answer.status != 200:
        yield f"status {answer.status} instead of a stream that breaks: {answer.body[:200]!r}"
        return
    if not answer.whole:
        yield "the broken stream has no proper end of its body"
    if b"data: [DONE]" in answer.body or (kind.done != b"[DONE]" and kind.done in answer.body):
        yield "a broken stream looks whole"
    payloads = events(answer.body)
    try:
        error = orjson.loads(payloads[-1])["error"]
        assert error["message"]
    except (ValueError, LookupError, TypeError, AssertionError):
        yield f"its last event is no error: {payloads[-1:]!r}"


def _refused(kind: Kind, expect: Expect, answer: Answer) -> Iterator[str]:
    if answer.status != expect.status:
        yield f"status {answer.status} instead of {expect.status}: {answer.body[:200]!r}"
        return
    if not answer.whole:
        yield "the answer is cut"
    try:
        told = answer.json
        error = told["error"]
        assert isinstance(error["message"], str)
        assert error["message"]
        assert error.get("code") is None or isinstance(error["code"], str)
    except (ValueError, LookupError, TypeError, AssertionError):
        yield f"no error in the form of the dialect: {answer.body[:200]!r}"
        return
    if answer.header(b"content-type") != b"application/json":
        yield f"content-type {answer.header(b'content-type')!r}"
    if (told.get("type") == "error") is not kind.anthropic:
        yield "the error has the other dialect's form"
    named = expect.code if not (kind.anthropic and expect.outcome == "passed") else None  # its errors have no codes
    if named is not None and error.get("code") != named:
        yield f"code {error.get('code')!r} instead of {expect.code!r}"
    may_retry = answer.header(b"x-should-retry") != b"false"
    if expect.outcome == "maybe" and may_retry:
        yield "nothing tells the SDK not to replay what may have been billed"
    if expect.outcome == "unbilled" and may_retry is not expect.retried:
        yield "x-should-retry says the opposite"
    if expect.outcome == "passed" and answer.header(b"x-should-retry") is not None:
        yield "a refusal that passes got our x-should-retry"
    if expect.status == 503 and answer.header(b"retry-after") is None:
        yield "503 without Retry-After"


def tenancy(kind: Kind, tenant: str, expect: Expect, answer: Answer) -> Iterator[str]:
    """I4, and that no key of ours comes out."""
    seen = answer.body + repr(answer.headers).encode()
    for other in TENANTS:
        if other != tenant and secret(other).encode() in seen:
            yield f"I4: {tenant} saw the word of {other}"
    if kind.speaks and expect.outcome in ("whole", "estimated") and secret(tenant).encode() not in seen:
        yield "the tenant's own word isn't in its answer"
    if UPSTREAM_KEY.encode() in seen:
        yield "the upstream's key came out"


def accounts(kind: Kind, expect: Expect, tenant: str, records: Sequence[Record]) -> Iterator[str]:
    """I3, and what the attempt cost."""
    by_event: dict[str, list[Record]] = {"reserved": [], "settled": [], "ended": []}
    for record in records:
        by_event[record["event"]].append(record)
    reserved, settled, ended = by_event.values()
    if len(ended) != 1:
        yield f"{len(ended)} ends of one exchange"
    announced = Counter((record["exchange"], record["attempt"]) for record in reserved)
    closed = Counter((record["exchange"], record["attempt"]) for record in settled)
    if announced != closed or max(closed.values(), default=1) != 1:
        yield f"I3: reserved {dict(announced)}, settled {dict(closed)}"
    if any(record["key"] != tenant for record in (*reserved, *ended)):
        yield "I4: accounted to another key"
    if not settled or not reserved:
        yield "no attempt was accounted for"
        return
    yield from _cost(kind, expect, reserved[-1], settled[-1])


def _cost(kind: Kind, expect: Expect, reserved: Record, settled: Record) -> Iterator[str]:
    outcome, known = _SETTLED[expect.outcome]
    if kind.unpriced and settled["known"] == "unpriced" and "estimated" in known:
        return
    if (settled["outcome"], settled["known"] in known) != (outcome, True):
        yield f"settled as {settled['outcome']}, {settled['known']} instead of {outcome}, {' or '.join(sorted(known))}"
    cost, estimate = settled["nanodollars"], reserved["estimate"]["nanodollars"]
    if expect.outcome in ("passed", "unbilled") and cost != 0:
        yield f"{cost} nano-dollars for what wasn't billed"
    if expect.outcome == "maybe" and cost != estimate:
        yield f"{cost} nano-dollars instead of the estimate, {estimate}"
    if expect.outcome in ("whole", "estimated", "broken") and not (isinstance(cost, int) and 0 < cost < 10**9):
        yield f"{cost} nano-dollars for an answer"


def events(body: bytes) -> list[bytes]:
    """The payloads of an event stream."""
    found = []
    for block in body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found


def stable(body: bytes) -> list[bytes]:
    """Events without what differs from answer to answer: ids and times."""
    return [_DIFFERS.sub(b"?", payload.replace(b"\n", b"")) for payload in events(body)]
