"""`weir tokenizers`: against a mirror of our own, since tests have no network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxy.tokens import ranks
from tests.cli.conftest import Weir
from tests.tokens.conftest import cache

__all__ = ["cache"]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing of it."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of what lies in a directory."""
    directory = tmp_path / "mirror"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", directory
        server.shutdown()
        thread.join()


def test_fetch_fills_a_cache(weir: Weir, mirror: tuple[str, Path], cache: Path, tmp_path: Path) -> None:
    """Every file comes by the name that tiktoken looks for; what is there isn't fetched again."""
    url, directory = mirror
    for one in ranks.ALL:
        (directory / f"{one.encoding}.tiktoken").symlink_to(cache / one.file_name)
    done = weir("tokenizers", "fetch", "--to", "cache", "--from", url)
    assert (done.returncode, done.stderr.count("fetched")) == (0, len(ranks.ALL))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {one.file_name for one in ranks.ALL}
    again = weir("tokenizers", "fetch", "--to", "cache", "--from", "http://127.0.0.1:9")
    assert (again.returncode, again.stderr.count("is there")) == (0, len(ranks.ALL))


def test_another_file_is_refused(weir: Weir, mirror: tuple[str, Path], tmp_path: Path) -> None:
    """A file with another hash is not kept: a tokenizer that counts otherwise is worse than none."""
    url, directory = mirror
    (directory / "o200k_base.tiktoken").write_text("IQ== 0\n")
    done = weir("tokenizers", "fetch", "o200k_base", "--to", "cache", "--from", url)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("source", ["http://127.0.0.1:9", "file:///etc"])
def test_no_network(weir: Weir, source: str) -> None:
    """Without an answer there is one line that says what follows from it."""
    done = weir("tokenizers", "fetch", "--to", "cache", "--from", source)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "tokens are estimated" in done.stderr


def test_a_mirror_without_it(weir: Weir, mirror: tuple[str, Path]) -> None:
    """A 404 is named."""
    done = weir("tokenizers", "fetch", "--to", "cache", "--from", mirror[0])
    assert done.returncode == 1
    assert "not found" in done.stderr.lower()


def test_list(weir: Weir, cache: Path, tmp_path: Path) -> None:
    """The list says of each whether it is there, in the cache that the environment names, else under the home."""
    done = weir("tokenizers", "list", "--json", TIKTOKEN_CACHE_DIR=str(cache))
    assert [json.loads(line)["present"] for line in done.stdout.splitlines()] == [True] * len(ranks.ALL)
    done = weir("tokenizers", "list", "--home", "here", TIKTOKEN_CACHE_DIR="")
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [[one.encoding, "no"] for one in ranks.ALL]
    assert done.stderr.endswith("here/tiktoken\n")


def test_unknown_encodings(weir: Weir) -> None:
    """A misspelt one is answered with those that exist."""
    done = weir("tokenizers", "fetch", "o2000k_base")
    assert done.returncode == 1
    assert "o200k_base, cl100k_base" in done.stderr
