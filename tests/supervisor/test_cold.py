"""The cold process under the supervisor: what it is told and tells, and that it can be killed at any time."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from proxy.cold import Settings
from proxy.journal import Journal
from proxy.ledger.accounts import Owner, Said
from proxy.ledger.facts import Counts
from proxy.ledger.keeping import Keep
from proxy.ledger.opening import open_ledger
from proxy.logs import Log
from proxy.supervisor import kept
from proxy.supervisor.cold import ColdKeeper
from tests.children import at_our_end
from tests.ledger.steps import rows
from tests.ledger.told import Segment, exchange_id, whole
from tests.supervisor.conftest import plan, running, until
from tests.tracing.test_assembly import ended

URL = "sqlite:///ledger.db"


async def soon(holds: Callable[[], bool]) -> None:
    """It gets the processor when nobody else wants it: on a busy machine that may take a while."""
    await until(holds)


class Keeping:
    """A keeper and its log."""

    def __init__(self, home: Path, settings: Settings, **options: Any) -> None:
        self.logged = io.StringIO()
        self.keeper = ColdKeeper(home, settings, Log("json", "debug", stream=self.logged), **options)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Its lines of the log."""
        return [line for line in map(json.loads, self.logged.getvalue().splitlines()) if line["event"] == event]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Keeping]:
    """A ledger in SQLite that is kept."""
    made = Keeping(tmp_path, Settings(URL))
    made.keeper.keep()
    yield made
    await made.keeper.stop()


async def test_one_that_is_killed_goes_on_where_it_stopped(here: Keeping, tmp_path: Path) -> None:
    """Each row once; the ledger is behind meanwhile and what was counted counts on; it is told once."""
    segment, keeper = Segment(tmp_path), here.keeper
    segment.write(*whole(exchange_id(1)))
    await soon(lambda: keeper.facts().rows == 2)
    first = keeper.pid
    assert first is not None
    assert (keeper.facts().up, keeper.facts().behind_bytes, keeper.facts().events) == (True, 0, 3)
    os.kill(first, signal.SIGSTOP)  # it gets no processor: what it told last must not hide that it falls behind
    segment.write(*whole(exchange_id(2)))
    assert keeper.facts().behind_bytes > 0
    os.kill(first, signal.SIGKILL)
    await soon(lambda: keeper.restarts == 1)
    assert not keeper.facts().up
    await soon(lambda: keeper.facts().rows == 4)
    assert keeper.facts().up and keeper.facts().events == 6
    assert keeper.pid not in (None, first)
    assert [line["signal"] for line in here.told("cold process died")] == ["SIGKILL"]
    assert sum(row.nanodollars for row in rows(open_ledger(URL, tmp_path))) == 14_000


async def test_reloads_reach_it_and_stopping_takes_in_what_is_there(here: Keeping, tmp_path: Path) -> None:
    """What comes after a reload belongs to whom the files say then; what is torn is told at the very end, too."""
    segment, keeper = Segment(tmp_path), here.keeper
    segment.write(*whole(exchange_id(1)))
    await soon(lambda: keeper.facts().rows == 2)
    keeper.tell(Said(teams={"search": Owner("4711", "6510")}), Keep())
    segment.write(*whole(exchange_id(2)))
    segment.write({"event": "invented"})  # type: ignore[arg-type]
    segment.leave()
    await keeper.stop()
    assert keeper.pid is None
    assert keeper.facts().behind_bytes == 0 and keeper.facts().rows == 4
    assert here.told("journal records not understood") and not here.told("cold process died")
    engine = open_ledger(URL, tmp_path)
    with engine.connect() as db:
        found = db.exec_driver_sql("select cost_centre, gl_account from dimensions where key is not null").fetchall()
    assert {tuple(row) for row in found} == {(None, None), ("4711", "6510")}


async def test_it_has_the_lowest_priority_and_no_secrets_to_show(tmp_path: Path) -> None:
    """All its threads wait for everybody; the password of its database is on no command line."""
    made = Keeping(tmp_path, Settings("postgresql://weir:secret-word@127.0.0.1:1/x"))
    made.keeper.keep()
    try:
        await soon(lambda: bool(made.told("ledger")))
        pid = made.keeper.pid
        assert pid is not None
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secret-word" not in shown and str(tmp_path).encode() in shown
        assert "secret-word" not in made.logged.getvalue()
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
        assert len(threads) > 1
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {19}
        assert os.getpriority(os.PRIO_PROCESS, 0) < 19
        assert not made.keeper.facts().up
    finally:
        await made.keeper.stop()


async def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A supervisor that is killed leaves none behind; a signal to all of the group is the supervisor's to act on."""
    code = (
        "import asyncio; from pathlib import Path; from proxy.cold import Settings; from proxy.logs import Log\n"
        "from proxy.supervisor.cold import ColdKeeper\n"
        "async def main():\n"
        f"    keeper = ColdKeeper(Path({str(tmp_path)!r}), Settings({URL!r}), Log())\n"
        "    keeper.keep()\n"
        "    while not keeper.facts().rows: await asyncio.sleep(0.01)\n"
        "    print(keeper.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    segment = Segment(tmp_path)
    segment.write(*whole(exchange_id(1)))
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=subprocess.PIPE, preexec_fn=at_our_end(signal.SIGKILL)
    )
    try:
        assert starter.stdout is not None
        pid = int(await starter.stdout.readline())
        os.kill(pid, signal.SIGTERM)
        segment.write(*whole(exchange_id(2)))
        await soon(lambda: len(rows(open_ledger(URL, tmp_path))) == 2)
        assert _runs(pid)
    finally:
        starter.kill()
        await starter.wait()
    await soon(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_one_that_keeps_dying_is_tried_seldom_and_told_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waits grow to their longest, and then there are no more lines."""
    monkeypatch.setattr(kept, "LONGEST_BACKOFF_S", 0.15)
    made = Keeping(tmp_path, Settings(URL), command=(sys.executable, "-S", "-c", "raise SystemExit(7)"))
    made.keeper.keep()
    await soon(lambda: made.keeper.restarts >= 4)
    await made.keeper.stop()
    told = [(line["status"], line["restarted_in_s"]) for line in made.told("cold process died")]
    assert told == [(7, 0.0), (7, 0.1)]
    assert made.keeper.pid is None


async def test_spans_are_sent_from_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in the journal before the start isn't, what workers wrote while it was starting is."""
    pytest.importorskip("opentelemetry.sdk.trace", reason="no OpenTelemetry here (pip install weir-proxy[otel])")
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        (tmp_path / "home").mkdir()
        _write(tmp_path / "home", "exchange-before")
        async with running(plan(tmp_path / "home")):
            _write(tmp_path / "home", "exchange-after")
            await soon(lambda: b"exchange-after" in b"".join(bodies))
        server.shutdown()
        thread.join()
    sent = b"".join(bodies)
    assert b"exchange-after" in sent and b"exchange-before" not in sent


def _write(home: Path, exchange: str) -> None:
    journal = Journal(home / "journal", 0)
    journal.append(ended(exchange))
    journal.close()


async def test_where_there_is_nothing_to_do_it_isnt_started(home: Path) -> None:
    """Neither a ledger nor traces: no process."""
    async with running(plan(home)) as here:
        assert here.supervisor.upkeep.cold is None
        assert "weir_ledger_up 1.0" in (await here.ops("/metrics"))[1]


def test_counts_add_up() -> None:
    """Field by field."""
    assert Counts(events=1, failures=2).plus(Counts(events=10, rows=5)) == Counts(events=11, rows=5, failures=2)


async def test_a_reload_of_the_files_is_told_to_it(home: Path) -> None:
    """Accounts and how long things are kept follow the files; the address of the ledger doesn't."""
    now = plan(home, ledger=URL)
    async with running(now, lambda: now) as here:
        now = replace(now, hash="h2", keep=Keep(keep_s=1.0), accounts=Said(teams={"a": Owner("1")}))
        assert (await here.supervisor.reload("test")).ok
        cold = here.supervisor.upkeep.cold
        assert cold is not None and cold._settings == Settings(URL, now.accounts, now.keep)
        await soon(lambda: (home / "ledger.db").exists())
    assert cold.pid is None and cold.restarts == 0
