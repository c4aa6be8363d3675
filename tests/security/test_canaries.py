"""No secret is where it must not be: every sink of the whole program, after a life with all that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.ledger.postgres import Postgres, PostgresMissing
from tests.security.canaries import CANARIES, Sinks, forms
from tests.security.course import fleet, whole
from tests.state.servers import Unavailable, redis_program, running

pytestmark = pytest.mark.timeout(400)

ALLOWED = (
    ("admin-token", "home/admin.token"),  # that is the place of it
    ("virtual-key", "command weir keys create"),  # shown once, to whoever makes it
)


@pytest.fixture(scope="module")
def sinks(tmp_path_factory: pytest.TempPathFactory) -> Sinks:
    return asyncio.run(whole(tmp_path_factory.mktemp("canaries")))


def test_no_secret_leaks(sinks: Sinks) -> None:
    """Logs, metrics, errors, journal, ledger, state, admin answers, commands, arguments and environments."""
    leaks = sinks.leaks(ALLOWED)
    assert not leaks, "\n".join(leaks)


SINKS = (
    "stdout",
    "stderr",
    "ops",
    "admin answers",
    "error bodies",
    "error events",
    "headers of answers",
    "arguments of processes",
    "environments of children",
    "home/ledger.db",
    "home/keys.json",
    "command weir check",
    "command weir journal tail",
    "command weir why",
    "command weir report",
    "command weir status",
)


@pytest.mark.parametrize("sink", SINKS)
def test_every_sink_was_looked_into(sinks: Sinks, sink: str) -> None:
    """A test that looks nowhere finds nothing."""
    assert len(sinks.seen[sink]) > 20


def test_the_course_met_what_it_should(sinks: Sinks) -> None:
    """Journal and ledger hold the exchanges; the log tells of crashes, refused keys and files that are wrong."""
    assert sum(name.endswith(".journal") for name in sinks.seen) >= 2
    assert b'"outcome":"partial"' in b"".join(data for name, data in sinks.seen.items() if name.endswith(".journal"))
    for word in (b"SIGSEGV", b"SIGKILL", b"upstream_key_refused"):
        assert word in sinks.seen["stderr"] + sinks.seen["stdout"], word


@pytest.fixture(scope="module")
def fleet_sinks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sinks]:
    """The same with Redis, PostgreSQL and a cache."""
    try:
        program, postgres = redis_program(), Postgres()
    except (Unavailable, PostgresMissing) as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("fleet")
    (directory / "redis").mkdir()
    try:
        postgres.start()
        with running(program, directory / "redis") as redis:
            yield asyncio.run(fleet(directory, redis, postgres))
    finally:
        postgres.remove()


def test_no_password_of_a_server_leaks(fleet_sinks: Sinks) -> None:
    """Nor a prompt or an answer, which a cache keeps in its store and nowhere else; also while the servers are away."""
    leaks = fleet_sinks.leaks(ALLOWED)
    assert not leaks, "\n".join(leaks)
    assert b"hit" in fleet_sinks.seen["headers of answers"]
    assert len(fleet_sinks.seen["a start in vain"]) > 50


def test_a_leak_is_found_in_any_form() -> None:
    """As it is, in base64 at any offset, in hexadecimal."""
    for form in forms(CANARIES["prompt"]):
        sinks = Sinks()
        sinks.add("here", b"before " + form + b" after")
        assert [leak.split(":")[0] for leak in sinks.leaks()] == ["prompt in here"]
        assert sinks.leaks([("prompt", "here")]) == []
