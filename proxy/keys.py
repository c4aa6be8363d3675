"""Virtual keys: made, listed and revoked in `<home>/keys.json`.

Rules:
- A key is 256 random bits, shown once, when it is made. What is stored, sent to workers or logged is its SHA-256: a
  hash of a random key needs no salt and no stretching, and looking one up in a dictionary tells an attacker nothing.
- Every change is read-modify-write under `flock` on `keys.lock` (not on the file itself, which is replaced), then an
  atomic rename, so a reader never sees half a file and two writers never lose a key.
- A revoked key stays in the file with its time, so that reports can still name it.
- An unreadable file raises `KeyFileError`; nobody may take it for "no keys".
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

PREFIX = "wk-"
FILE = "keys.json"
LOCK = "keys.lock"


class KeyFileError(Exception):
    """`keys.json` can't be read: not JSON, or not of this form."""


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One virtual key as it is stored and as workers get it. Times are Unix seconds; `models` are glob patterns."""

    id: str
    sha256: str
    org: str = ""
    team: str = ""
    project: str = ""
    tags: dict[str, str] = {}
    expires: float | None = None
    models: list[str] | None = None
    created: float = 0.0
    revoked: float | None = None
    cost_centre: str = ""
    source: str = FILE

    def active(self, now_s: float) -> bool:
        """Whether the key opens anything at `now_s`: not revoked, not expired."""
        return self.revoked is None and (self.expires is None or now_s < self.expires)


class _KeyFile(msgspec.Struct, forbid_unknown_fields=False):
    version: int = 1
    keys: list[KeyRecord] = []


def digest(secret: str | bytes) -> str:
    """The SHA-256 under which a key is stored and looked up, in lower-case hex."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def make_secret() -> str:
    """A new key: `wk-` and 256 random bits, URL-safe."""
    return PREFIX + secrets.token_urlsafe(32)


class KeyStore:
    """The keys in `<home>/keys.json`. Blocking: for the command line and threads, never for a loop."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / FILE

    def list(self) -> list[KeyRecord]:
        """All keys, the revoked too, in the order they were made. Raises `KeyFileError`."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeyFileError(f"{self.path}: {error.strerror}") from error
        try:
            return msgspec.json.decode(text, type=_KeyFile).keys
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise KeyFileError(f"{self.path}: not a key file: {error}") from error

    def create(
        self,
        *,
        org: str = "",
        team: str = "",
        project: str = "",
        tags: dict[str, str] | None = None,
        expires: float | None = None,
        models: Sequence[str] | None = None,
        now_s: float | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key and store its hash; returns the key itself, which nobody can learn again, and its record."""
        secret = make_secret()
        record = KeyRecord(
            id=f"key_{secrets.token_hex(6)}",
            sha256=digest(secret),
            org=org,
            team=team,
            project=project,
            tags=tags or {},
            expires=expires,
            models=None if models is None else [*models],
            created=time.time() if now_s is None else now_s,
        )
        with self._locked():
            self._write([*self.list(), record])
        return secret, record

    def revoke(self, name: str, *, now_s: float | None = None) -> KeyRecord:
        """Revoke the key with this id, or this key itself. Raises `KeyError`. Revoking twice is once."""
        at = time.time() if now_s is None else now_s
        with self._locked():
            keys = self.list()
            index = _index(keys, name)
            if keys[index].revoked is None:
                keys[index] = msgspec.structs.replace(keys[index], revoked=at)
                self._write(keys)
            return keys[index]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write(self, keys: Sequence[KeyRecord]) -> None:
        text = msgspec.json.format(msgspec.json.encode(_KeyFile(keys=[*keys])), indent=2) + b"\n"
        write_private(self.path, text)


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` by `content` atomically and durably, readable by its owner only."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _index(keys: Sequence[KeyRecord], name: str) -> int:
    wanted = digest(name)
    for index, key in enumerate(keys):
        if key.id == name or key.sha256 == wanted:
            return index
    raise KeyError(name)
