"""The simulator as a process: `python -m proxy.simulator`."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.simulator import fault_table
from proxy.simulator.__main__ import main
from proxy.simulator.certificates import Authority
from tests.children import at_our_end
from tests.patience import PATIENCE_S


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """The base URL of a simulator process, which ends cleanly afterwards."""
    command = [sys.executable, "-m", "proxy.simulator", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=at_our_end(signal.SIGKILL)) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"https?://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


def test_it_says_where_it_listens_and_ends_on_sigterm() -> None:
    """The first line has the URL; SIGTERM ends it with 0."""
    with running("--ttft", "1ms") as url:
        assert b'"object":"list"' in urllib.request.urlopen(f"{url}/models", timeout=PATIENCE_S).read()


def test_it_asks_for_its_key() -> None:
    """--api-key makes other keys a 401."""
    with running("--api-key", "right") as url, pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/models", timeout=PATIENCE_S)


def test_it_speaks_https(tmp_path: Path) -> None:
    """--cert and --key make it HTTPS."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue()
    with running("--cert", str(certificate), "--key", str(key)) as url:
        assert url.startswith("https://")
        context: ssl.SSLContext = authority.trusting()
        assert urllib.request.urlopen(f"{url}/models", timeout=PATIENCE_S, context=context).status == 200


def test_it_lists_its_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """--list-faults prints the table and ends."""
    assert main(["--list-faults"]) == 0
    assert capsys.readouterr().out.strip() == fault_table()


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad scenario is 1 and named; a bad option is 2."""
    path = tmp_path / "bad.yaml"
    path.write_text("modls: {}")
    assert main(["--scenario", str(path)]) == 1
    assert "modls" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--ttft", "quick"])
