"""Asks a running proxy's admin listener: what `weir status`, `reload`, `restart`, `drain` and `bypass` use.

Rules: blocking, standard library only, so that a command starts quickly. Talks to loopback and never through a proxy
of the environment. The address comes from the file that the running supervisor keeps in its home directory.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from proxy.admin import token as tokens
from proxy.admin.operated import Reloaded, Status
from proxy.admin.running import Running, running_in


class AdminError(Exception):
    """The proxy couldn't be asked, or refused; the text says why. `status` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AdminClient:
    """The running proxy of this home directory. `address` (`host:port`) replaces the recorded one."""

    def __init__(self, home: Path, address: str | None = None, *, timeout_s: float = 30.0) -> None:
        self._home = home
        self._address = address
        self._timeout_s = timeout_s

    def status(self) -> Status:
        """How it stands. Raises `AdminError`, as all of these."""
        return msgspec.convert(self._ask("GET", "/admin/status"), Status)

    def reload(self) -> Reloaded:
        """Read the files again; an outcome with `ok` false names the problems."""
        return msgspec.convert(self._ask("POST", "/admin/reload", also=(422,)), Reloaded)

    def drain(self) -> None:
        """Finish what runs, then end."""
        self._ask("POST", "/admin/drain")

    def restart(self) -> None:
        """Replace the workers, one after the other; `status` says when that is over."""
        self._ask("POST", "/admin/restart")

    def bypass(self, on: bool) -> bool:
        """Switch all policies off (`on`) or on again; returns whether the bypass is on now."""
        return bool(self._ask("POST", "/admin/bypass", {"on": on})["bypass"])

    def resume(self, policy: str) -> None:
        """Bring a policy back that stepped back."""
        self._ask("POST", f"/admin/stepped-back/{quote(policy, safe='')}/resume")

    def exchange(self, id: str) -> Mapping[str, Any]:
        """What happened to an exchange."""
        return self._ask("GET", f"/admin/exchanges/{quote(id, safe='')}")

    def operate(self, use: str, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """Ask a policy (`proxy.operating`)."""
        return self._ask("POST", f"/admin/policies/{quote(use, safe='')}/{quote(operation, safe='')}", arguments)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, also: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        address = self._address or _admin_of(running_in(self._home), self._home)
        connection = http.client.HTTPConnection(address, timeout=self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AdminError(f"no answer from a proxy's admin listener at {address}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400 and answer.status not in also:
            raise AdminError(content.get("error", {}).get("message", f"status {answer.status}"), answer.status)
        return dict(content)

    def _token(self) -> str:
        if given := os.environ.get("WEIR_ADMIN_TOKEN"):
            return given
        try:
            return (self._home / tokens.FILE).read_text(encoding="ascii").strip()
        except OSError as error:
            raise AdminError(f"can't read the admin token {self._home / tokens.FILE}: {error.strerror}") from error


def _admin_of(running: Running | None, home: Path) -> str:
    if running is None:
        raise AdminError(f"no proxy runs with the home directory {home}")
    if running.admin is None:
        raise AdminError("the running proxy has its admin listener switched off (`admin: off`)")
    return running.admin
