"""A real PostgreSQL server for tests, in a directory of its own, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path


class PostgresMissing(Exception):
    """There is no server to test with; the text says why."""


def _program(name: str) -> str:
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )
    if found is None:
        raise PostgresMissing(f"no {name} (Debian: apt-get install postgresql): PostgreSQL isn't tested")
    return str(Path(found).resolve())


def _user() -> dict[str, int]:
    """Whom the server runs as: not root."""
    if os.getuid():
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise PostgresMissing("PostgreSQL doesn't run as root, and there is no other user: it isn't tested")


class Postgres:
    """One server. `stop` and `start` keep its data."""

    def __init__(self) -> None:
        self._initdb, self._ctl = _program("initdb"), _program("pg_ctl")
        self._user = _user()
        self.directory = Path(tempfile.mkdtemp(prefix="weir-pg-", dir="/tmp"))
        if self._user:
            os.chown(self.directory, self._user["user"], self._user["group"])
        self._data = self.directory / "data"
        self._run(self._initdb, "-D", str(self._data), "-U", "weir", "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd="/", timeout=60, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, **self._user
        )
        if done.returncode:
            raise PostgresMissing(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def start(self) -> None:
        """Accepts connections when it returns."""
        options = f"-c listen_addresses='' -k {self.directory} -c fsync=off -c shared_buffers=32MB"
        log = str(self.directory / "log")
        self._run(self._ctl, "-D", str(self._data), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """Ends at once, as if it had crashed."""
        self._run(self._ctl, "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        """The address of a new database."""
        import psycopg

        with psycopg.connect(host=str(self.directory), user="weir", dbname="postgres", autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        return f"postgresql://weir@/{name}?host={self.directory}"

    def remove(self) -> None:
        """Ends it and forgets its data."""
        try:
            self.stop()
        except PostgresMissing:
            pass  # it isn't running
        shutil.rmtree(self.directory, ignore_errors=True)
