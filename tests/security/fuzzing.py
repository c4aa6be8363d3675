"""What is fuzzed: functions that take any bytes, and fail by raising where a promise is broken.

Three ways lead here: hypothesis and the corpus in `tests/corpus/` at every run of the tests (`test_fuzzing.py`), and
`python -m tests.security.fuzz` (`make fuzz`), which goes on for as long as it is given, guided by coverage where
atheris is installed. What was found once stays in the corpus.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import orjson

from policies.budget import table
from proxy import journal
from proxy.body import scan
from proxy.clients.keys import KeyFileError, KeyStore
from proxy.config import ConfigurationError, load
from proxy.dialects import read_large, read_tail, read_unary, stream_reader
from proxy.dialects.reading import Reading
from proxy.errors import WeirError
from proxy.form import find
from proxy.wire.call import ServerLimits
from proxy.wire.sse import EventTooLarge, Splitter
from tests.wire.sansio import Loop, received

CORPUS = Path(__file__).parents[1] / "corpus"
Target = Callable[[bytes], None]
DIALECTS = ("chat", "embeddings", "images", "audio", "responses", "anthropic")
_LIMITS = ServerLimits(line_bytes=512, headers=20)
_MOST_PROBLEM = 5000


def pieces(data: bytes) -> list[bytes]:
    """The data, cut at places that its own first bytes say."""
    marks = sorted(byte * len(data) // 255 for byte in data[:4])
    return [part for a, b in pairwise([0, *marks, len(data)]) if (part := data[a:b])]


# --- the wire


class Wire:
    """Both sides' connections, on a loop that is made once."""

    def __init__(self) -> None:
        self._loop: Loop | None = None

    @property
    def loop(self) -> Loop:
        if self._loop is None:
            self._loop = Loop().__enter__()
        return self._loop

    def client(self, data: bytes) -> None:
        """A request: no exception, the same requests and answers however it is cut, and an answer or an end."""
        whole = self.loop.served([data], limits=_LIMITS, limit_bytes=4096)
        cut = self.loop.served(pieces(data), limits=_LIMITS, limit_bytes=4096)
        assert _requests(whole.seen) == _requests(cut.seen)
        statuses, likewise = sorted((_statuses(whole.written), _statuses(cut.written)), key=len)
        # What follows an answer may be found broken before the answer is written, which then says `close`, or after.
        assert statuses == likewise or [*statuses, 400] == likewise, (whole.written, cut.written)
        for status in likewise:
            assert status in _ANSWERED, status

    def upstream(self, data: bytes) -> None:
        """An answer: the contract of a receiver, the same however it is cut, whole only if its framing says so."""
        for eof in (False, True):
            whole = self.loop._runner.run(received([data], eof=eof))
            cut = self.loop._runner.run(received(pieces(data), eof=eof))
            assert (whole.status, whole.headers, whole.body, whole.verdict) == (
                cut.status,
                cut.headers,
                cut.body,
                cut.verdict,
            )
            if whole.verdict == "whole":
                assert 200 <= whole.status < 1000
            for name, value in whole.headers:
                assert b"\n" not in name + value
                assert b"\r" not in name + value


_ANSWERED = {200, 400, 404, 405, 408, 413, 414, 417, 431, 501, 505}


def _requests(seen: list[object]) -> list[tuple[object, ...]]:
    return [(s.method, s.target, s.version, s.headers, s.body) for s in seen]  # type: ignore[attr-defined]


def _statuses(written: bytes) -> list[int]:
    """Of answers: whether 100 comes depends on whether the body has."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", written) if status != b"100"]


_WIRE = Wire()


def sse(data: bytes) -> None:
    """A stream of events: nothing is lost or added, and the payloads are the same however it is cut."""

    def split(parts: list[bytes]) -> tuple[bytes, list[bytes | None], bool]:
        splitter, raw, told = Splitter(event_bytes=2048, unparsed_bytes=512), b"", []
        try:
            for part in parts:
                for event in splitter.feed(part):
                    raw += event.raw
                    told.append(event.data)
        except EventTooLarge:
            return b"", [], True
        return raw + splitter.rest(), [payload for payload in told if payload is not None], False

    raw, told, too_large = split([data])
    again, likewise, too_large_again = split(pieces(data))
    if too_large or too_large_again:
        return
    assert raw == again == data
    if len(data) <= 512:  # beyond, what is relayed unread depends on how it comes
        assert told == likewise


# --- bodies


def body(data: bytes) -> None:
    """A request's body: refused with 400, or read as every other reader would, also after a change."""
    try:
        read = scan(data)
    except WeirError as error:
        assert error.status == 400
        return
    told = json.loads(data)
    assert isinstance(told, dict)
    model = told.get("model")
    assert read.get("model") == model
    changed = read.using({"model": "other", "stream_options": {"include_usage": True}})
    assert json.loads(changed.raw) == {**told, "model": "other", "stream_options": {"include_usage": True}}


def answer(data: bytes) -> None:
    """An answer, an event or an end of one, in every dialect: a reading or ValueError, and never absurd usage."""
    for dialect in DIALECTS:
        reader = stream_reader(dialect)
        for event in data.split(b"\n\n"):
            reader.event(event)
        readings = [reader.reading, read_tail(dialect, data)]
        read_large(dialect, Reading(), data[:4096], data)
        try:
            readings.append(read_unary(dialect, data))
        except ValueError:
            pass
        for reading in readings:
            if reading.usage is not None:
                assert all(count >= 0 for count in reading.usage.counts().values())


def form(data: bytes) -> None:
    """The beginning of a form: a model's name, nothing, or 400."""
    try:
        name = find(data, b"--b")
    except WeirError as error:
        assert error.status == 400
        return
    assert name is None or (name.isprintable() and name)


# --- files


def frames(data: bytes) -> None:
    """A journal's segment: whole records up to the first that isn't, wherever it is cut or spoiled."""
    offsets = [0]
    for end, payload in journal.frames(data):
        assert end == offsets[-1] + 8 + len(payload)
        offsets.append(end)
    for cut in (len(data) // 2, len(data) - 1):
        kept = [end for end, _ in journal.frames(data[: max(cut, 0)])]
        assert kept == [end for end in offsets[1:] if end <= cut]
    good = journal.frame({"event": "ended", "exchange": "x"})
    assert next(iter(journal.frames(good + data)))[0] == len(good)


class Files:
    """Files that people write, each in a directory that is made once."""

    def __init__(self) -> None:
        self._made: tempfile.TemporaryDirectory[str] | None = None

    @property
    def _directory(self) -> Path:
        if self._made is None:
            self._made = tempfile.TemporaryDirectory(prefix="weir-fuzz-")
        return Path(self._made.name)

    def _loaded(self) -> None:
        try:
            load(self._directory / "weir.yaml", {"HOME": str(self._directory), "KEY": "sk-secret-canary-key"})
        except ConfigurationError as error:
            assert error.errors
            for problem in error.problems:
                assert len(str(problem)) < _MOST_PROBLEM
                assert "secret-canary" not in str(problem)

    def deployment(self, data: bytes) -> None:
        """A deployment file: a configuration, or problems with their places, and no secret in them."""
        (self._directory / "weir.yaml").write_bytes(data)
        self._loaded()

    def policies(self, data: bytes) -> None:
        """A policy file."""
        (self._directory / "weir.yaml").write_text(_DEPLOYMENT + "policies: policies.yaml\n")
        (self._directory / "policies.yaml").write_bytes(data)
        self._loaded()

    def teams(self, data: bytes) -> None:
        """A teams file."""
        (self._directory / "weir.yaml").write_text(_DEPLOYMENT + "teams: teams.yaml\n")
        (self._directory / "teams.yaml").write_bytes(data)
        self._loaded()

    def keys(self, data: bytes) -> None:
        """A file of virtual keys: keys, or one error that says that it isn't."""
        store = KeyStore(self._directory)
        store.path.write_bytes(data)
        try:
            found = store.list()
        except KeyFileError:
            return
        for key in found:
            assert isinstance(key.active(0.0), bool)
            orjson.dumps(key.sha256)

    def limits(self, data: bytes) -> None:
        """A table of limits, which finance writes: rows, or problems with their lines."""
        problems: list[int] = []
        table.read(data.decode("utf-8", "replace"), lambda line, message, hint="": problems.append(line))
        assert all(line >= 1 for line in problems)


_DEPLOYMENT = (
    "version: 1\nupstreams: {up: {url: 'http://127.0.0.1:9/v1', key: '${KEY}'}}\nmodels: {'*': {upstream: up}}\n"
)
_FILES = Files()
TARGETS: dict[str, Target] = {
    "client": _WIRE.client,
    "upstream": _WIRE.upstream,
    "sse": sse,
    "body": body,
    "answer": answer,
    "form": form,
    "frames": frames,
    "deployment": _FILES.deployment,
    "policies": _FILES.policies,
    "teams": _FILES.teams,
    "keys": _FILES.keys,
    "limits": _FILES.limits,
}


def corpus(target: str) -> Iterator[tuple[str, bytes]]:
    """What is kept for a target, by name."""
    for path in sorted((CORPUS / target).iterdir()):
        yield path.name, path.read_bytes()
