"""Virtual keys: made, listed, rotated and revoked in `<home>/keys.json`.

Rules:
- A key is 256 random bits, shown once, when it is made. What is stored, sent to workers or logged is its SHA-256: a
  hash of a random key needs no salt and no stretching, and looking one up in a dictionary tells an attacker nothing.
- Every change is read-modify-write under `flock` on `keys.lock` (not on the file itself, which is replaced), then an
  atomic rename, so a reader never sees half a file and two writers never lose a key.
- A revoked key stays in the file with its time, so that reports can still name it.
- An id is a bearer, not a secret: a rotated key has two secrets under one id while both are valid, so that budgets,
  tags and groups of a rollout go on. Revoking an id revokes all of its secrets.
- A record only ever closes: it is revoked, or its expiry comes nearer. So two hosts' tables can be joined in any order
  and any number of times (`joined`), and a revocation wins over whatever else was said.
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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

PREFIX = "wk-"
ADMIN_PREFIX = "wa-"
FILE = "keys.json"
LOCK = "keys.lock"


Role = Literal["viewer", "finance", "operator"]
"""What a key may do on the admin listener. Each role may do what those before it may."""


class KeyFileError(Exception):
    """`keys.json` can't be read: not JSON, or not of this form."""


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One virtual key as it is stored and as workers get it. Times are Unix seconds; `models` are glob patterns.

    With a `role` it is a key of the admin listener, and opens nothing on the data port.
    """

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
    role: Role | None = None

    def active(self, now_s: float) -> bool:
        """Whether the key opens anything at `now_s`: not revoked, not expired."""
        return self.revoked is None and (self.expires is None or now_s < self.expires)


class _KeyFile(msgspec.Struct, forbid_unknown_fields=False):
    version: int = 1
    keys: list[KeyRecord] = []


def digest(secret: str | bytes) -> str:
    """The SHA-256 under which a key is stored and looked up, in lower-case hex."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def make_secret(prefix: str = PREFIX) -> str:
    """A new key: `wk-` (`wa-` for the admin listener) and 256 random bits, URL-safe."""
    return prefix + secrets.token_urlsafe(32)


def joined(mine: Sequence[KeyRecord], theirs: Iterable[KeyRecord]) -> list[KeyRecord]:
    """Both tables: by hash, each closed as early as either says. Commutative, associative, idempotent."""
    table = {record.sha256: record for record in mine}
    for record in theirs:
        known = table.get(record.sha256)
        table[record.sha256] = record if known is None else _closed(known, record.revoked, record.expires)
    return [*table.values()]


def _closed(record: KeyRecord, revoked: float | None, expires: float | None) -> KeyRecord:
    first = _earlier(record.revoked, revoked), _earlier(record.expires, expires)
    if first == (record.revoked, record.expires):
        return record
    return msgspec.structs.replace(record, revoked=first[0], expires=first[1])


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)


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
        role: Role | None = None,
        id: str | None = None,
        now_s: float | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key and store its hash; returns the key itself, which nobody can learn again, and its record.

        Raises `ValueError` where the id is taken.
        """
        secret = make_secret(ADMIN_PREFIX if role else PREFIX)
        record = KeyRecord(
            id=id or f"key_{secrets.token_hex(6)}",
            sha256=digest(secret),
            org=org,
            team=team,
            project=project,
            tags=tags or {},
            expires=expires,
            models=None if models is None else [*models],
            created=time.time() if now_s is None else now_s,
            role=role,
        )
        with self._locked():
            keys = self.list()
            if any(key.id == record.id for key in keys):
                raise ValueError(f"the id {record.id} is taken")
            self._write([*keys, record])
        return secret, record

    def revoke(self, name: str, *, now_s: float | None = None) -> KeyRecord:
        """Revoke all secrets with this id, or this key itself. Raises `KeyError`. Revoking twice is once."""
        at = time.time() if now_s is None else now_s
        with self._locked():
            keys = self.list()
            meant = _indices(keys, name)
            for index in meant:
                if keys[index].revoked is None:
                    keys[index] = msgspec.structs.replace(keys[index], revoked=at)
            self._write(keys)
            return keys[meant[-1]]

    def rotate(self, name: str, overlap_s: float, *, now_s: float | None = None) -> tuple[str, KeyRecord]:
        """Another secret for this id, for as long as the one before would have lived; that ends `overlap_s` from now.

        Raises `KeyError` where no active key is meant.
        """
        at = time.time() if now_s is None else now_s
        secret = ""
        with self._locked():
            keys = self.list()
            active = [index for index in _indices(keys, name) if keys[index].active(at)]
            if not active:
                raise KeyError(name)
            before = keys[active[-1]]
            secret = make_secret(ADMIN_PREFIX if before.role else PREFIX)
            for index in active:
                keys[index] = _closed(keys[index], None, at + overlap_s)
            record = msgspec.structs.replace(before, sha256=digest(secret), created=at)
            self._write([*keys, record])
        return secret, record

    def adopt(self, theirs: Iterable[KeyRecord]) -> Sequence[KeyRecord]:
        """Joins another host's table into this one, which it returns; the file is written only if that changes it."""
        with self._locked():
            mine = self.list()
            both = joined(mine, theirs)
            if both != mine:
                self._write(both)
            return both

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


def _indices(keys: Sequence[KeyRecord], name: str) -> list[int]:
    """Where the secrets of this id stand, or this secret. Raises `KeyError`."""
    wanted = digest(name)
    found = [index for index, key in enumerate(keys) if key.id == name or key.sha256 == wanted]
    if not found:
        raise KeyError(name)
    return found
