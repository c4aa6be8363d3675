"""Every fault of an upstream, on every kind of question: what the client gets, and what the journal says it cost.

P: nothing was billed. A: maybe billed, so the client must not replay. M: the stream breaks, and nobody takes it for
whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority
from proxy.simulator.ports import UNKNOWN_HOST_URL, BlackHole, refused_url
from tests.plane.conftest import Serve
from tests.plane.questions import ALL, STREAMED, UNARY, Kind, events, in_band_error
from tests.plane.running import Plane
from tests.wire.raw import Answer

QUICK = {"total_s": 0.25, "stream_idle_s": 0.12}


def _check_error(answer: Answer, kind: Kind) -> dict[str, Any]:
    """The error is JSON in the form of the dialect, and the answer is whole."""
    assert answer.whole
    assert answer.header(b"content-type") == b"application/json"
    told = answer.json
    assert (told.get("type") == "error") is kind.anthropic
    error: dict[str, Any] = told["error"]
    assert {"message", "type", "param", "code"} <= set(error) or answer.status in (400, 404, 422, 429)
    return error


async def _ask(plane: Plane, kind: Kind, fault: str) -> Answer:
    return await plane.post(kind.path, kind.fields, fault=fault)


PASSED = {
    "rate-limit:2": 429,
    "rate-limit:3600": 429,
    "quota": 429,
    "bad-request": 400,
    "not-found": 404,
    "unprocessable": 422,
    "context-length": 400,
}


@pytest.mark.parametrize("kind", ALL, ids=str)
@pytest.mark.parametrize("fault", PASSED)
async def test_passed(serve: Serve, kind: Kind, fault: str) -> None:
    """Rows 5 to 7, 9, 10: the upstream's refusal reaches the client as it is, and costs nothing."""
    async with serve() as plane:
        answer = await _ask(plane, kind, fault)
        assert answer.status == PASSED[fault]
        _check_error(answer, kind)
        assert answer.header(b"x-should-retry") is None
        if fault.startswith("rate-limit"):
            assert answer.header(b"retry-after") == fault.partition(":")[2].encode()
        assert answer.header(b"x-ratelimit-limit-requests") == b"10000"
        settled = plane.settled()
    assert (settled["outcome"], settled["nanodollars"], settled["known"]) == ("failed", 0, "observed")
    assert settled["status"] == PASSED[fault]


UNBILLED = {
    "unauthorized": (502, "upstream_key_refused", False),
    "forbidden": (502, "upstream_key_refused", False),
    "error-503": (503, "upstream_overloaded", None),
    "overloaded-529": (503, "upstream_overloaded", None),
    "redirect": (502, "upstream_redirect", None),
    "redirect:307": (502, "upstream_redirect", None),
}


@pytest.mark.parametrize("kind", ALL, ids=str)
@pytest.mark.parametrize("fault", UNBILLED)
async def test_unbilled(serve: Serve, kind: Kind, fault: str) -> None:
    """Rows 8, 11, 12, 33: a status that says whose fault it is; nothing was billed, so nothing is counted."""
    status, code, retry = UNBILLED[fault]
    async with serve() as plane:
        answer = await _ask(plane, kind, fault)
        assert (answer.status, _check_error(answer, kind)["code"]) == (status, code)
        assert answer.header(b"x-should-retry") == (None if retry is None else b"false")
        assert (answer.header(b"retry-after") is not None) is (status == 503)
        settled = plane.settled()
    assert (settled["outcome"], settled["nanodollars"], settled["known"]) == ("failed", 0, "observed")
    assert settled["error"] == code


async def _unreached(serve: Serve, url: str, **settings: Any) -> Answer:
    """What a client gets whose upstream can't be reached: nothing was billed, and it may try again."""
    async with serve(url=url, timeouts={"connect_s": 0.2}, **settings) as plane:
        answer = await plane.chat(stream=True)
        settled = plane.settled()
    assert answer.header(b"x-should-retry") is None
    assert (settled["outcome"], settled["nanodollars"], settled["known"]) == ("failed", 0, "observed")
    assert settled["status"] is None
    return answer


async def test_refused(serve: Serve) -> None:
    """Row 1: nobody listens there."""
    answer = await _unreached(serve, refused_url())
    assert (answer.status, answer.error["code"]) == (503, "upstream_unreachable")
    assert answer.header(b"retry-after") == b"1"


async def test_unknown_name(serve: Serve) -> None:
    """Row 2: the name doesn't resolve."""
    answer = await _unreached(serve, UNKNOWN_HOST_URL)
    assert answer.status in (503, 504)  # a resolver that doesn't answer in time can't say that there is no such name
    assert answer.error["type"] == "upstream_error"


async def test_black_hole(serve: Serve) -> None:
    """Row 3: nobody answers the SYN."""
    with BlackHole() as hole:
        answer = await _unreached(serve, hole.url)
    assert (answer.status, answer.error["code"]) == (504, "upstream_connect_timeout")


@pytest.mark.parametrize("wrong", ["name", "expired", "authority"])
async def test_bad_certificate(serve: Serve, tmp_path: Path, wrong: str) -> None:
    """Row 4: a certificate of another name, of another time, or of nobody known is never accepted."""
    authority, other = Authority(tmp_path), Authority(tmp_path)
    served = {
        "name": lambda: authority.serving("elsewhere.example"),
        "expired": lambda: authority.serving("127.0.0.1", expired=True),
        "authority": lambda: other.serving("127.0.0.1"),
    }
    async with Simulator(tls=served[wrong]()) as simulator:
        answer = await _unreached(serve, simulator.url, upstream={"ca": str(authority.path)})
        assert (answer.status, answer.error["code"]) == (502, "upstream_tls")
        assert simulator.requests == []


async def test_good_certificate(serve: Serve, tmp_path: Path) -> None:
    """A certificate of the configured authority is accepted."""
    authority = Authority(tmp_path)
    async with (
        Simulator(tls=authority.serving("127.0.0.1")) as simulator,
        serve(url=simulator.url, upstream={"ca": str(authority.path)}) as plane,
    ):
        assert (await plane.chat()).status == 200


@pytest.mark.parametrize("fault", ["unauthorized", "first-event-error:401", "first-event-error:invalid_api_key"])
async def test_refused_key_is_an_alert(serve: Serve, fault: str) -> None:
    """Row 8: that the upstream refuses our key is counted and logged, for the client can do nothing about it; also if
    it says so in a stream."""
    async with serve() as plane:
        answer = await plane.chat(fault=fault, stream=True)
        assert (answer.status, answer.error["code"]) == (502, "upstream_key_refused")
        assert plane.metrics.snapshot()["events"]["upstream_key_refused"] == 1
        (line,) = [fields for level, event, fields in plane.logged if event == "upstream_key_refused"]
    assert line["upstream"] == "up"


MAYBE_BILLED = {
    "error-500": (502, "upstream_500"),
    "error-500:billed": (502, "upstream_500"),
    "error-502": (502, "upstream_502"),
    "no-headers": (504, "upstream_timeout"),
    "reset-after-request": (502, "upstream_reset"),
    "reset-after-request:close": (502, "upstream_reset"),
    "html-200": (502, "upstream_not_an_answer"),
    "gzip-bomb:8": (502, None),
    "unknown-encoding": (502, "upstream_encoding"),
    "unknown-encoding:br": (502, "upstream_encoding"),
    "header-crlf:bare-cr": (502, "upstream_malformed"),
    "header-crlf:bad-name": (502, "upstream_malformed"),
    "header-crlf:nul": (502, "upstream_malformed"),
    "header-crlf:no-colon": (502, "upstream_malformed"),
    "header-crlf:space-colon": (502, "upstream_malformed"),
}


@pytest.mark.parametrize("kind", ALL, ids=str)
@pytest.mark.parametrize("fault", MAYBE_BILLED)
async def test_maybe_billed(serve: Serve, kind: Kind, fault: str) -> None:
    """Rows 11, 13, 14, 28, 30, 34: the client is told not to replay, and the estimate stands until somebody knows."""
    status, code = MAYBE_BILLED[fault]
    async with serve(timeouts=QUICK) as plane:
        answer = await _ask(plane, kind, fault)
        error = _check_error(answer, kind)
        assert answer.status == status
        assert code is None or error["code"] == code
        assert answer.header(b"x-should-retry") == b"false"
        settled, reserved = plane.settled(), plane.journal("reserved")[0]
    assert (settled["outcome"], settled["known"]) == ("failed", "unknown")
    assert settled["nanodollars"] == reserved["estimate"]["nanodollars"] > 0


@pytest.mark.parametrize("kind", UNARY, ids=str)
@pytest.mark.parametrize(
    "fault", ["empty-200", "truncated-json", "wrong-length", "cut-chunk", "rst", "stall", "half-open:0", "drip:0.05"]
)
async def test_unary_answers_that_break(serve: Serve, kind: Kind, fault: str) -> None:
    """Rows 19 to 22, 28, 29: what isn't a whole answer never gets status 200."""
    async with serve(timeouts=QUICK) as plane:
        answer = await _ask(plane, kind, fault)
        assert answer.status in (502, 504)
        _check_error(answer, kind)
        assert answer.header(b"x-should-retry") == b"false"
        settled = plane.settled()
    assert (settled["outcome"], settled["known"]) == ("failed", "unknown")
    assert settled["nanodollars"] > 0


FIRST_EVENT = {"first-event-error": 502, "first-event-error:rate_limit": 429}


@pytest.mark.parametrize("kind", STREAMED, ids=str)
@pytest.mark.parametrize("fault", FIRST_EVENT)
async def test_error_as_first_event(serve: Serve, kind: Kind, fault: str) -> None:
    """Row 16: an error before any content still gets a status, and costs nothing."""
    async with serve() as plane:
        answer = await _ask(plane, kind, fault)
        # Anthropic's form of the simulated error names no rate limit, so it is an error like any other.
        assert answer.status == (502 if kind.anthropic else FIRST_EVENT[fault])
        _check_error(answer, kind)
        assert answer.header(b"x-should-retry") is None
        settled = plane.settled()
    assert (settled["outcome"], settled["nanodollars"], settled["known"]) == ("failed", 0, "observed")


BREAKS = [
    "mid-error",
    "eof-no-done",
    "eof-no-done:2",
    "cut-chunk",
    "rst",
    "stall",
    "half-open:3",
    "malformed-event",
    "huge-event:2",
    "no-last-blank",
]


@pytest.mark.parametrize("kind", STREAMED, ids=str)
@pytest.mark.parametrize("fault", BREAKS)
async def test_streams_that_break(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """Rows 17 to 20, 22 to 24, 27: an error event ends the stream, the end that only whole streams have is missing."""
    async with serve(timeouts=QUICK, limits={"event_bytes": 2**20}) as plane:
        answer = await _ask(plane, kind, fault)
        assert answer.status == 200
        assert answer.whole, "the error event is the end that its reader can rely on"
        assert kind.done.removeprefix(b"data: ") not in answer.body
        error = in_band_error(answer)
        assert error["message"]
        assert b": weir exchange" not in answer.body
        if kind.anthropic:
            assert b"event: error\ndata: {" in answer.body
        settled, ended = plane.settled(), plane.ended()
        if not fault.startswith("half-open"):  # its upstream neither reads nor closes
            await simulator.until(lambda state: state.active == 0)
    assert (settled["outcome"], ended["outcome"]) == ("partial", "partial")
    assert settled["nanodollars"] > 0
    assert settled["error"]


@pytest.mark.parametrize("kind", STREAMED, ids=str)
async def test_one_byte_at_a_time(serve: Serve, kind: Kind) -> None:
    """Row 21: bytes that keep coming don't keep an exchange alive beyond its total time."""
    async with serve(timeouts={"total_s": 1.0, "stream_idle_s": 0.5}) as plane:
        answer = await _ask(plane, kind, "drip:0.0005")
        settled = plane.settled()
    assert kind.done not in answer.body
    assert (answer.status, settled["outcome"]) in ((200, "partial"), (504, "failed"))
    assert "time limit" in (in_band_error(answer) if answer.status == 200 else answer.json["error"])["message"]


@pytest.mark.parametrize("kind", STREAMED, ids=str)
@pytest.mark.parametrize(
    "fault",
    ["crlf", "cr", "no-space", "several-data-lines", "joined", "joined:3", "split-every:7", "split-utf8", "heartbeat"],
)
async def test_framing_of_events(serve: Serve, simulator: Simulator, kind: Kind, fault: str) -> None:
    """Row 25: however events are cut and ended, they are the same events, and their usage is known."""
    async with serve() as plane:
        plain = await _ask(plane, kind, "")
        answer = await _ask(plane, kind, fault)
        first, second = plane.journal("settled")
    assert kind.done.removeprefix(b"data: ") in answer.body
    assert _stable(events(answer)) == _stable(events(plain))
    assert (second["outcome"], second["known"], second["tokens"]) == ("complete", "observed", first["tokens"])


def _stable(payloads: list[bytes]) -> list[Any]:
    """Events without what differs from answer to answer."""
    return [
        re.sub(rb'"(?:\\.|[a-z]+_)?[0-9a-z-]*[0-9a-f]{12,}"|[0-9]{9,}', b"?", p.replace(b"\n", b"")) for p in payloads
    ]


async def test_after_the_end(serve: Serve, simulator: Simulator) -> None:
    """Row 26: what follows the end of a stream is dropped, and the answer counts as complete."""
    async with serve() as plane:
        answer = await plane.chat(fault="after-done", stream=True)
        assert plane.settled()["outcome"] == "complete"
    assert events(answer)[-1] == b"[DONE]"
    assert b" late" not in answer.body


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_headers_of_the_hop(serve: Serve, kind: Kind) -> None:
    """Row 34: cookies, hop-by-hop fields and the upstream's own rules stay with the upstream."""
    async with serve() as plane:
        answer = await _ask(plane, kind, "set-cookie")
    names = {name for name, _ in answer.headers}
    assert answer.status == 200
    assert not names & {b"set-cookie", b"x-hop", b"keep-alive", b"proxy-authenticate", b"te", b"upgrade", b"alt-svc"}
    assert not names & {b"server", b"strict-transport-security"}
    assert answer.header(b"x-request-id")


@pytest.mark.parametrize("kind", ALL, ids=str)
@pytest.mark.parametrize("fault", ["informational", "trailers", "close-delimited", "chunked"])
async def test_framings_of_answers(serve: Serve, kind: Kind, fault: str) -> None:
    """However HTTP frames an answer, it arrives whole, without trailers, and is metered."""
    async with serve() as plane:
        plain = await _ask(plane, kind, "")
        answer = await _ask(plane, kind, fault)
        first, second = plane.journal("settled")
    assert (answer.status, answer.whole, answer.informational) == (200, True, [])
    assert len(answer.body) == len(plain.body)
    assert second["tokens"] == first["tokens"]
    assert second["known"] == "observed"


async def test_idle_connection_was_closed(serve: Serve, simulator: Simulator) -> None:
    """Row 15: a kept connection that dies as the request arrives is replaced once, and the client sees nothing."""
    async with serve() as plane:
        await plane.chat(fault="close-idle:next")
        answer = await plane.chat()
        assert answer.status == 200
        assert [record["outcome"] for record in plane.journal("settled")] == ["complete", "failed", "complete"]
    assert simulator.invoice().total.requests == 2


@pytest.mark.parametrize(("late", "status"), [(False, 200), (True, 502)], ids=["at once", "late"])
async def test_a_late_reset_is_not_replayed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, simulator: Simulator, late: bool, status: int
) -> None:
    """Row 15: what a kept connection's reset may have billed isn't sent twice; what is sent twice is counted."""
    if late:
        monkeypatch.setattr("proxy.dispatch.STALE_S", -1.0)
    async with serve() as plane:
        await plane.chat(fault="close-idle:next")
        answer = await plane.chat()
        last, counted = plane.journal("settled")[-1], dict(plane.metrics.snapshot()["events"])
    assert answer.status == status
    assert (last["outcome"], last["known"]) == (("failed", "unknown") if late else ("complete", "observed"))
    assert counted.get("request_resent", 0) == (0 if late else 1)
    assert simulator.invoice().total.requests == (1 if late else 2)


async def test_fresh_connection_is_not_replayed(serve: Serve, simulator: Simulator) -> None:
    """Row 15: a connection that was never used before isn't stale, so its reset is no reason to send twice."""
    async with serve() as plane:
        answer = await plane.chat(fault="reset-after-request")
    assert answer.status == 502
    assert len(simulator.requests) == 1
