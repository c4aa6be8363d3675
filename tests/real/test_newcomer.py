"""The first minutes with Weir: one command, what it prints to try, and what it wrote down."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from .llama import Llama
from .process import alive, running, until
from .questions import CHATS
from .weir import COMMAND, Weir, environment

READY = re.compile(r"\bready listen=")
ADDRESS = re.compile(r"serves +http://127\.0\.0\.1:(\d+)/v1\b")
SNIPPET = re.compile(r"^ *(from openai import .*?)\n\n", re.MULTILINE | re.DOTALL)
CURL = re.compile(r"^ *(curl .*?)\n\n", re.MULTILINE | re.DOTALL)


@contextmanager
def served(directory: Path, *options: str) -> Iterator[tuple[Weir, str]]:
    """`weir serve OPTIONS` with no file at all, on a port that it chooses and says, and what it printed until ready."""
    home, log = directory / "home", directory / "weir.log"
    command = (*COMMAND, "serve", "--listen", "127.0.0.1:0", "--home", str(home), *options)
    with running(command, log, environment(home)) as process:

        def ready() -> bool:
            alive(process, log)
            return READY.search(log.read_text()) is not None

        until(ready, what="weir serve ready")
        said = log.read_text()
        address = ADDRESS.search(said)
        assert address, said
        yield Weir(port=int(address[1]), ops=0, home=home), said


def printed(pattern: re.Pattern[str], said: str) -> str:
    found = pattern.search(said)
    assert found, said
    return re.sub(r"^  ", "", found[1], flags=re.MULTILINE)


def test_the_demo_says_that_it_is_one_and_its_examples_run(tmp_path: Path) -> None:
    """The first line names the simulator, and the printed snippet and curl line, run as they stand, are answered."""
    with served(tmp_path, "--demo") as (weir, said):
        assert "SIMULATOR" in said.splitlines()[0]
        snippet = subprocess.run(
            [sys.executable, "-c", printed(SNIPPET, said)], capture_output=True, text=True, timeout=60
        )
        assert snippet.returncode == 0, snippet.stderr[-2000:]
        assert snippet.stdout.strip()
        if shutil.which("curl"):
            curl = subprocess.run(["sh", "-c", printed(CURL, said)], capture_output=True, text=True, timeout=60)
            assert '"choices"' in curl.stdout, curl.stdout + curl.stderr
        until(
            lambda: "complete" in weir.command("journal", "tail", "--home", str(weir.home)),
            every_s=0.2,
            what="a line of the journal",
        )


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_an_unchanged_script_against_a_real_server_is_journalled(llama: Llama, tmp_path: Path, stream: bool) -> None:
    """`weir serve --upstream URL`, a script with only its base URL changed, and a journal line with its tokens."""
    with served(tmp_path, "--upstream", llama.url) as (weir, said):
        assert llama.url in said.splitlines()[0]
        with openai.OpenAI(base_url=weir.url, api_key="any", max_retries=0) as client:
            answer = client.chat.completions.create(**CHATS["plain"], stream=stream)
            assert list(answer)
        tail = until(lambda: _line(weir, "tiny-random"), every_s=0.2, what="a line of the journal")
        assert tail[4] == "24" and "complete" in tail


def _line(weir: Weir, model: str) -> list[str]:
    rows = [line.split() for line in weir.command("journal", "tail", "--home", str(weir.home)).splitlines()]
    return next((row for row in rows if model in row), [])
