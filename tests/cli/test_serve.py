"""`weir serve` and the commands that operate it, from the first line to the drained end, as a newcomer meets them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.admin.client import AdminClient
from proxy.admin.running import running_in
from tests.children import at_our_end
from tests.cli.conftest import Weir
from tests.patience import PATIENCE_S

PORTS = {"WEIR_LISTEN": "127.0.0.1:0", "WEIR_OPS": "127.0.0.1:0", "WEIR_ADMIN": "127.0.0.1:0"}
READY = '"event":"ready"'


class Served:
    """A running `weir serve`: what it said first, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], home: Path, said: str) -> None:
        self.process = process
        self.home = home
        self.said = said

    @property
    def origin(self) -> str:
        running = running_in(self.home)
        assert running is not None
        return f"http://{running.listen[0]}"

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers and body of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.origin + path, data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()


@contextlib.contextmanager
def served(directory: Path, *arguments: str, **env: str) -> Iterator[Served]:
    """Run `weir serve` on free ports, ready; what remains of it is killed at the end."""
    home = directory / "home"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WEIR", "OPENAI", "UPSTREAM"))}
    command = [sys.executable, "-m", "proxy.cli", "serve", "--home", str(home), "--log-format", "json", *arguments]
    said = directory / "stdout"
    with said.open("w") as stdout:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=clean | PORTS | env,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=at_our_end(signal.SIGTERM),
        )
    assert process.stderr is not None
    workers: list[int] = []
    try:
        lines: list[str] = []
        while READY not in (line := process.stderr.readline()):
            lines.append(line)
            assert line, f"weir serve ended: {process.wait(PATIENCE_S)}\n{said.read_text()}{''.join(lines)}"
        workers += [worker.pid for worker in AdminClient(home).status().workers]
        yield Served(process, home, "".join(lines) + line)
    finally:
        process.kill()
        for pid in workers:  # a killed supervisor leaves its workers serving
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.stderr.close()
        process.wait(PATIENCE_S)


CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The demo, shared by the tests that leave it as it was."""
    with served(tmp_path_factory.mktemp("demo"), "--demo") as running:
        yield running


def test_says_loudly_what_it_serves(demo: Served) -> None:
    """Before anything else it is said that the answers come from the simulator, and why."""
    assert "SIMULATOR" in demo.said
    assert "--demo" in demo.said


def test_a_request_shows_in_the_journal_with_its_cost(demo: Served, weir: Weir) -> None:
    """An answer names its exchange; the journal and `why` tell its tokens."""
    status, headers, body = demo.ask("/v1/chat/completions", CHAT)
    assert status == 200
    usage = json.loads(body)["usage"]
    exchange = headers["x-weir-exchange"]

    lines = weir("journal", "tail", "--home", str(demo.home)).stdout.splitlines()
    (line,) = [line for line in lines if exchange in line]
    assert line.split()[3:5] == [str(usage["prompt_tokens"]), str(usage["completion_tokens"])]
    assert "complete 200" in line

    told = weir("why", exchange, "--home", str(demo.home)).stdout
    assert f"{usage['prompt_tokens']} in, {usage['completion_tokens']} out" in told


def test_status(demo: Served, weir: Weir) -> None:
    """The status of a ready proxy names its process and exits with 0."""
    done = weir("status", "--home", str(demo.home))
    assert done.returncode == 0, done.stderr
    assert f"pid {demo.process.pid}" in done.stdout
    assert "1 of 1 ready" in done.stdout
    assert json.loads(weir("status", "--json", "--home", str(demo.home)).stdout)["ready"] is True


def test_bypass_and_reload(demo: Served, weir: Weir) -> None:
    """The kill switch is turned and shows; a reload without changes says so."""
    home = ("--home", str(demo.home))
    assert weir("bypass", "on", *home).stdout.startswith("bypass is on")
    assert "policies step aside" in weir("status", *home).stdout
    assert weir("bypass", "off", *home).stdout.startswith("bypass is off")
    assert "is still in force" in weir("reload", *home).stdout


def test_nothing_runs_here(weir: Weir, tmp_path: Path) -> None:
    """Commands for a running proxy say that there is none."""
    for command in (["status"], ["reload"], ["drain"], ["bypass", "on"]):
        done = weir(*command, "--home", str(tmp_path))
        assert done.returncode == 1
        assert "no proxy runs" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_drain_ends_it_with_its_simulator(weir: Weir, tmp_path: Path) -> None:
    """`weir drain` ends the proxy with status 0, and the demo's simulator with it."""
    with served(tmp_path, "--demo") as running:
        assert weir("drain", "--home", str(running.home)).stdout == "draining\n"
        assert running.process.wait(PATIENCE_S) == 0
        assert running.process.stderr is not None
        running.process.stderr.read()  # ends when the last process that holds it does, the simulator included


def test_simulator_does_not_survive_its_proxy(tmp_path: Path) -> None:
    """A proxy that is killed leaves no simulator behind."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells a child that its parent was killed")
    with served(tmp_path, "--demo") as running:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        (simulator,) = [int(pid) for pid in children if b"proxy.simulator" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        gone = os.pidfd_open(simulator)
        running.process.kill()
        running.process.wait(PATIENCE_S)
        with contextlib.closing(os.fdopen(gone)):
            assert select.select([gone], [], [], PATIENCE_S)[0], "the simulator still runs"


def test_interrupt_drains(tmp_path: Path) -> None:
    """Ctrl-C ends it cleanly."""
    with served(tmp_path, "--upstream", "http://127.0.0.1:9/v1") as running:
        assert "http://127.0.0.1:9/v1" in running.said
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0


def test_options_win_over_the_file_and_stay_at_reload(weir: Weir, tmp_path: Path) -> None:
    """`--policies` and `--workers` replace what the file says, also at a reload; a broken file changes nothing."""
    (tmp_path / "weir.yaml").write_text(
        'version: 1\nupstreams: {a: {url: "http://127.0.0.1:9/v1"}}\nlog: {level: info}\npolicies: none.yaml\n'
    )
    (tmp_path / "none.yaml").write_text("version: 1\npolicies: []\n")
    policies = tmp_path / "mine.yaml"
    policies.write_text("version: 1\npolicies:\n  - use: allow\n    models: [nothing]\n")
    with served(tmp_path, "--policies", "mine.yaml", "--workers", "2") as running:
        assert "it was found here" in running.said
        assert "2 of 2 ready" in weir("status", "--home", str(running.home)).stdout
        assert running.ask("/v1/chat/completions", CHAT)[0] == 403

        policies.write_text("version: 1\npolicies:\n  - use: alow\n")
        refused = weir("reload", "--home", str(running.home))
        assert refused.returncode == 1
        assert "did you mean allow?" in refused.stderr
        assert running.ask("/v1/chat/completions", CHAT)[0] == 403

        policies.write_text("version: 1\npolicies:\n  - use: allow\n    models: [gpt-9]\n")
        weir("reload", "--home", str(running.home))
        status, _, body = running.ask("/v1/chat/completions", {**CHAT, "model": "gpt-9"})
        assert status == 503, body  # allowed now, and nothing listens at the upstream


def test_a_key_opens_within_a_second_and_shuts(weir: Weir, tmp_path: Path) -> None:
    """A key made beside a running proxy is accepted, and refused once it is revoked, without a reload."""
    (tmp_path / "weir.yaml").write_text(
        'version: 1\nkeys: required\nupstreams: {a: {url: "http://127.0.0.1:9/v1", key: "${UPSTREAM_KEY}"}}\n'
    )
    with served(tmp_path, UPSTREAM_KEY="sk-test") as running:
        home = ("--home", str(running.home))
        assert running.ask("/weir/me")[0] == 401
        secret = weir("keys", "create", "--team", "search", *home).stdout.strip()
        bearer = {"authorization": f"Bearer {secret}"}
        until(lambda: running.ask("/weir/me", **bearer)[0] == 200)
        assert json.loads(running.ask("/weir/me", **bearer)[2])["team"] == "search"
        (key,) = re.findall(r"key_\w+", weir("keys", "list", *home).stdout)
        weir("keys", "revoke", key, *home)
        until(lambda: running.ask("/weir/me", **bearer)[0] == 401)


def test_first_start_of_a_container_prints_a_key_once(tmp_path: Path) -> None:
    """In a container that demands keys and has none, the first start prints one, stores its hash, and opens to it."""
    (tmp_path / "weir.yaml").write_text('version: 1\nkeys: required\nupstreams: {a: {url: "http://127.0.0.1:9/v1"}}\n')
    with served(tmp_path, WEIR_CONTAINER="1") as running:
        (secret,) = set(re.findall(r"wk-[\w-]+", (tmp_path / "stdout").read_text() + running.said))
        assert running.ask("/weir/me", authorization=f"Bearer {secret}")[0] == 200
        assert secret not in (running.home / "keys.json").read_text()
    with served(tmp_path, WEIR_CONTAINER="1") as again:
        assert "wk-" not in (tmp_path / "stdout").read_text() + again.said


def test_taken_port_is_one_line(weir_process: Weir, demo: Served, tmp_path: Path) -> None:
    """An address that somebody else has is said, and exits with 1."""
    taken = demo.origin.removeprefix("http://")
    done = weir_process(
        "serve", "--demo", "--listen", taken, "--home", str(tmp_path / "other"), **PORTS | {"WEIR_LISTEN": ""}
    )
    assert done.returncode == 1
    assert taken in done.stderr
    assert "Traceback" not in done.stderr


def until(true: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Ask again and again, with pauses that leave the processor to whom it is waited for."""
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.02)
