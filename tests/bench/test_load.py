"""The load generators against the bench's own upstream, over real sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import machine, payloads, processes
from bench.certificates import Certificates
from bench.load import poisson, single, streams, wire
from bench.subjects import Origin, Setting, StreamUpstream, Subject


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Subject]:
    nothing = Certificates(tmp_path, tmp_path, tmp_path)
    with StreamUpstream(Setting(tmp_path, machine.cores(), nothing), Origin(0)) as running:
        yield running


def test_streams_come_whole(upstream: Subject) -> None:
    """Every stream is equal to what was scheduled, and every event is counted."""
    seen = streams.run(upstream.url, streams=7, chunks=6, gap_ms=2)
    assert (seen.right, seen.wrong, seen.events) == (7, [], 42)
    assert min(seen.lags_us) > -3000  # the upstream's timers tick in whole milliseconds


def test_large_bodies_are_answered_by_their_crc(upstream: Subject) -> None:
    """The upstream says what it received, so a changed body is seen."""
    body = payloads.prompt_request()
    with single.Connection(upstream.url) as connection:
        answer = wire.answer_body(connection.exchange(wire.request(upstream.url, body)))
    assert payloads.body_fingerprint(body).encode() in answer
    assert payloads.body_fingerprint(body[:-1] + b" ").encode() not in answer


def test_open_loop_answers_every_arrival(upstream: Subject) -> None:
    """Each intended request has one latency, also with fewer connections than requests under way."""
    request = wire.request(upstream.url, payloads.unary_request())
    seen = poisson.run(upstream.url, request, rate=2000, seconds=0.1, connections=2, seed=3)
    assert len(seen.latencies_us) == len(poisson.arrivals_ns(2000, 0.1, 3))
    assert (seen.failed, seen.unanswered) == (0, 0)
    assert min(seen.latencies_us) > 0


def test_open_loop_counts_waiting_as_latency(upstream: Subject) -> None:
    """One connection for streams of 60 ms at 200 a second: later requests wait for earlier ones, and that counts."""
    request = wire.request(upstream.url, payloads.stream_request(4, 20))
    seen = poisson.run(upstream.url, request, rate=200, seconds=0.05, connections=1, seed=1)
    assert seen.waited > 0
    assert max(seen.latencies_us) > 100_000


def test_arrivals_have_the_rate_asked_for() -> None:
    """10,000 exponential gaps are within 5 % of their mean, and the seed repeats them."""
    times = poisson.arrivals_ns(1000, 10, seed=5)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert times == sorted(times) == poisson.arrivals_ns(1000, 10, seed=5)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_answer_ends_where_it_ends(framing: str) -> None:
    """No proper prefix of an answer is complete, and its body is freed of its framing."""
    answer = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    }[framing]
    assert [wire.answer_end(answer[:size]) for size in range(len(answer))] == [0] * len(answer)
    assert wire.answer_end(answer) == len(answer)
    assert wire.answer_body(answer) == b"hello"


def test_a_refusal_is_not_an_answer() -> None:
    """Anything but a 200 stops a measurement."""
    with pytest.raises(ValueError, match="503"):
        wire.answer_end(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")


def test_a_process_runs_where_it_was_put(upstream: Subject) -> None:
    """Upstreams are pinned to the load's core, every process of them."""
    assert {core for pid in upstream.pids() for core in os.sched_getaffinity(pid)} == {machine.cores().load}


def test_cpu_clock_of_a_process_is_its_own(upstream: Subject) -> None:
    """The scheduler's clock of this process moves with its work, and includes nobody else."""
    assert upstream.pids()[0] in processes.tree(os.getpid())
    before = processes.cpu_ns([os.getpid()])
    sum(range(200_000))
    assert processes.cpu_ns([os.getpid()]) > before
    assert processes.pss_bytes(os.getpid()) > 1_000_000
