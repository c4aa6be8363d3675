"""A real PostgreSQL server for tests, in a directory of its own, on a Unix socket only."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.children import at_our_end
from tests.patience import PATIENCE_S

ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin"}


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
        self._initdb = _program("initdb")
        self._server = str(Path(self._initdb).with_name("postgres"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _user()
        self.directory = Path(tempfile.mkdtemp(prefix="weir-pg-", dir="/tmp"))
        if self._user:
            os.chown(self.directory, self._user["user"], self._user["group"])
        self._data = self.directory / "data"
        self._run(self._initdb, "-D", str(self._data), "-U", "weir", "-A", "trust", "-E", "UTF8", "--no-sync")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd="/", timeout=60, capture_output=True, text=True, env=ENVIRONMENT, **self._user
        )
        if done.returncode:
            raise PostgresMissing(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def start(self) -> None:
        """Accepts connections when it returns."""
        options = ("-c", "listen_addresses=", "-k", str(self.directory), "-c", "fsync=off", "-c", "shared_buffers=32MB")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (self._server, "-D", str(self._data), *options),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                preexec_fn=at_our_end(signal.SIGQUIT),
                **self._user,
            )
        end_s = time.monotonic() + PATIENCE_S
        while not self._accepts():
            said = (self.directory / "log").read_text()[-1000:]
            assert self._process.poll() is None and time.monotonic() < end_s, f"PostgreSQL doesn't start: {said}"
            time.sleep(0.02)

    def _accepts(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self.directory), user="weir", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Ends at once, as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE_S)
            self._process = None

    def database(self, name: str) -> str:
        """The address of a new database."""
        import psycopg

        with psycopg.connect(host=str(self.directory), user="weir", dbname="postgres", autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        return f"postgresql://weir@/{name}?host={self.directory}"

    def remove(self) -> None:
        """Ends it and forgets its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
