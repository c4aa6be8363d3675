"""What a call tells of its deployment, and what it doesn't."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import WeirError
from proxy.faults import Fault, maybe_billed, of_status, of_wire
from proxy.upstreams import Deployment
from proxy.upstreams.deployment import Bar
from proxy.wire.client import Progress, WireError
from tests.upstreams.places import Clock, answer, begin, deployments, fail

REFUSED = of_wire(WireError("refused", Progress.CONNECTING)).error
TIMEOUT = of_wire(WireError("timeout", Progress.SENT, "total")).error
BROKEN = maybe_billed(502, "upstream_reset", "It closed the connection.").error


def overloaded(*headers: tuple[bytes, bytes]) -> WeirError:
    fault = of_status(503, list(headers), b"{}", True)
    assert isinstance(fault, Fault)
    return fault.error


def one(clock: Clock, **options: Any) -> Deployment:
    """With a rival, so that it is watched."""
    return deployments(clock, "one", "other", **options)[0]


@pytest.mark.parametrize(
    ("error", "calls"), [(REFUSED, 3), (TIMEOUT, 3), (BROKEN, 5), (overloaded(), 5)], ids=lambda value: str(value)[:20]
)
def test_failures_open_the_breaker(error: WeirError, calls: int) -> None:
    """By their kind; the operator is told once, with why and for how long."""
    deployment = one(clock := Clock())
    for number in range(calls):
        assert deployment.bar("m", 1, clock.now) is Bar.FREE, number
        fail(deployment, error)
    assert deployment.bar("m", 1, clock.now) is Bar.BROKEN
    ((event, fields),) = deployment.upstream.told  # type: ignore[attr-defined]
    assert (event, fields["deployment"], fields["for_s"]) == ("deployment_opened", "one", 5.0)
    assert str(calls) in fields["why"]


def test_the_clients_own_deadline_is_no_failure() -> None:
    """Nobody can shut a deployment for others by asking for too little time."""
    deployment = one(clock := Clock())
    for _ in range(50):
        fail(deployment, TIMEOUT, deadline=clock.now)
    assert deployment.bar("m", 1, clock.now) is Bar.FREE


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_the_clients_mistakes_are_no_failures(status: int) -> None:
    """What the client did wrong says that the upstream answers."""
    deployment = one(clock := Clock())
    for _ in range(50):
        answer(deployment, status=status)
    assert deployment.bar("m", 1, clock.now) is Bar.FREE
    assert deployment.line.tally.failed == 0


def test_our_own_pool_says_nothing() -> None:
    """A pool without a free connection is ours."""
    deployment = one(clock := Clock())
    for _ in range(10):
        fail(deployment, of_wire(WireError("pool", Progress.CONNECTING)).error)
    assert deployment.bar("m", 1, clock.now) is Bar.FREE


def test_a_broken_stream_counts() -> None:
    """A stream that breaks has failed, though it began well."""
    deployment = one(clock := Clock())
    for _ in range(5):
        flight, attempt = begin(deployment)
        attempt.ttft_ns, attempt.outcome, attempt.error = 10**8, "partial", "upstream_truncated"
        flight.land(attempt)
    assert deployment.bar("m", 1, clock.now) is Bar.BROKEN


def test_what_was_given_up_took_longer() -> None:
    """A call that was given up before it answered (a hedge's loser) shows that it is slow, and isn't a failure."""
    deployment = one(clock := Clock())
    answer(deployment, 0.1)
    flight, attempt = begin(deployment)
    clock.now += 4
    attempt.outcome = "aborted"
    flight.land(attempt)
    assert deployment.line.health.latency[False].estimate_s(clock.now) == 4.0
    assert deployment.line.tally.failed == 0


def test_told_to_wait() -> None:
    """Retry-After means not before, and isn't held against it."""
    deployment = one(clock := Clock())
    for _ in range(10):
        answer(deployment, status=429, headers=[(b"retry-after", b"7")])
    assert deployment.bar("m", 1, clock.now) is Bar.WAITING
    assert deployment.waits_s("m", clock.now) == 7.0
    clock.now += 7
    assert deployment.bar("m", 1, clock.now) is Bar.FREE


def test_an_overload_that_says_when() -> None:
    """A 503 with Retry-After, too."""
    deployment = one(clock := Clock())
    fail(deployment, overloaded((b"retry-after", b"3")))
    assert deployment.bar("m", 1, clock.now) is Bar.WAITING
    assert deployment.waits_s("m", clock.now) == 3.0


def test_a_quota_takes_longer() -> None:
    """A used-up quota is left alone for a minute, and the operator is told."""
    deployment = one(clock := Clock())
    answer(deployment, status=429, body=b'{"error":{"code":"insufficient_quota"}}')
    assert deployment.waits_s("m", clock.now) == 60.0
    assert deployment.upstream.told[0][0] == "deployment_quota"  # type: ignore[attr-defined]


def test_other_models_dont_wait() -> None:
    """Where names pass through, a limit is of one of them."""
    deployment = one(clock := Clock())
    answer(deployment, status=429, headers=[(b"retry-after", b"7")])
    assert deployment.bar("another", 1, clock.now) is Bar.FREE


def test_limits_of_clients_keys_are_theirs() -> None:
    """With the clients' own keys, nobody waits for another's limit or is refused for another's key."""
    deployment = one(clock := Clock(), own_key=False)
    near = [(b"x-ratelimit-limit-requests", b"60"), (b"x-ratelimit-remaining-requests", b"0")]
    for status in (200, 429, 401, 403):
        answer(deployment, status=status, headers=[*near, (b"retry-after", b"60")])
        assert deployment.bar("m", 1, clock.now) is Bar.FREE


def test_near_a_limit() -> None:
    """One whose limit is nearly used up is left out; an answer that tells of more brings it back."""
    deployment = one(clock := Clock())
    headers = [(b"x-ratelimit-limit-tokens", b"10000"), (b"x-ratelimit-remaining-tokens", b"1000")]
    answer(deployment, headers=headers)
    assert deployment.bar("m", 100, clock.now) is Bar.FREE
    assert deployment.bar("m", 900, clock.now) is Bar.NEAR_LIMIT
    answer(deployment, headers=[headers[0], (b"x-ratelimit-remaining-tokens", b"9000")])
    assert deployment.bar("m", 900, clock.now) is Bar.FREE


def key_refused(status: int) -> tuple[WeirError, int]:
    fault = of_status(status, [], b"{}", True)
    assert fault is not None
    return fault.error, status


def test_a_refused_key_is_set_aside() -> None:
    """For all models, until one call finds that it is taken again; the operator is told once each time."""
    first, second = deployments(clock := Clock(), "up", keys=2)
    error, status = key_refused(401)
    for _ in range(3):
        fail(first, error, status=status)
    assert (first.label, first.bar("m", 1, clock.now)) == ("up#1", Bar.KEY_ASIDE)
    assert second.bar("m", 1, clock.now) is Bar.FREE
    clock.now += 300
    assert first.bar("m", 1, clock.now) is Bar.FREE
    flight, attempt = begin(first)
    assert first.bar("m", 1, clock.now) is Bar.KEY_ASIDE  # that one tries it; nobody else does meanwhile
    attempt.outcome = "complete"
    flight.land(attempt)
    answer(first)
    assert first.bar("m", 1, clock.now) is Bar.FREE
    told = [event for event, _ in first.upstream.told]  # type: ignore[attr-defined]
    assert told == ["upstream_key_aside", "upstream_key_accepted"]


def test_a_forbidden_model_is_not_a_bad_key() -> None:
    """A 403 sets the key aside for that model only."""
    first = deployments(clock := Clock(), "up", keys=2)[0]
    error, status = key_refused(403)
    fail(first, error, status=status)
    assert first.bar("m", 1, clock.now) is Bar.KEY_ASIDE
    assert first.bar("another", 1, clock.now) is Bar.FREE


def test_what_is_under_way_is_counted() -> None:
    """Each call counts until it lands, and no more than it may are begun."""
    deployment = deployments(clock := Clock(), "one", "other", max_concurrent=2)[0]
    flights = [begin(deployment) for _ in range(2)]
    assert deployment.bar("m", 1, clock.now) is Bar.FULL
    flight, attempt = flights[0]
    attempt.outcome = "failed"
    flight.land(attempt)
    assert deployment.bar("m", 1, clock.now) is Bar.FREE
    assert deployment.line.in_flight == 1


def test_alone_and_well_nobody_watches() -> None:
    """Without a rival it is watched from its first failure until it has been quiet for a while."""
    (deployment,) = deployments(clock := Clock(), "one")
    assert not deployment.watched
    deployment.failed(begin(deployment)[1], BROKEN)
    assert deployment.watched
    answer(deployment)
    assert deployment.watched
    clock.now += 100
    answer(deployment)
    assert not deployment.watched
