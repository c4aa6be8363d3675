"""The client of the admin listener, against the real one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from proxy.admin import running, token
from proxy.admin.client import AdminClient, AdminError
from proxy.admin.operated import Reloaded
from proxy.admin.running import Running
from proxy.clients.keys import write_private
from tests.admin.conftest import TOKEN, Listener


@pytest.fixture
def client(admin: Listener) -> AdminClient:
    """It finds address and token in the home directory."""
    write_private(admin.home / token.FILE, TOKEN.encode())
    running.announce(admin.home, Running(os.getpid(), (), None, admin.address))
    return AdminClient(admin.home)


async def test_it_asks_and_understands(client: AdminClient, admin: Listener) -> None:
    """Each call comes back typed."""
    assert (await asyncio.to_thread(client.status)).workers[0].pid == 8
    assert await asyncio.to_thread(client.bypass, True) is True
    assert await asyncio.to_thread(client.reload) == Reloaded(True, "h2", True)
    assert await asyncio.to_thread(client.exchange, "known") == {"exchange": "known"}
    await asyncio.to_thread(client.drain)
    assert admin.operated.asked[-1] == "drain"


async def test_a_refused_reload_is_an_answer(client: AdminClient, admin: Listener) -> None:
    """The problems are there to be shown."""
    admin.operated.outcome = Reloaded(False, "h1", False, ("weir.yaml:3:1: no",))
    assert (await asyncio.to_thread(client.reload)).problems == ("weir.yaml:3:1: no",)


async def test_refusals_are_errors(client: AdminClient, admin: Listener) -> None:
    """With the listener's words and status."""
    with pytest.raises(AdminError, match="No such exchange") as caught:
        await asyncio.to_thread(client.exchange, "a/b")
    assert caught.value.status == 404
    write_private(admin.home / token.FILE, b"wrong")
    with pytest.raises(AdminError, match="token"):
        await asyncio.to_thread(client.status)


def test_nobody_there(tmp_path: Path) -> None:
    """No running proxy, a dead one, one without admin listener, no token: each says what is missing."""
    with pytest.raises(AdminError, match="no proxy runs with the home directory"):
        AdminClient(tmp_path).status()
    running.announce(tmp_path, Running(2**22 + 1, (), None, "127.0.0.1:1"))
    with pytest.raises(AdminError, match="no proxy runs"):
        AdminClient(tmp_path).status()
    running.announce(tmp_path, Running(os.getpid(), (), None, None))
    with pytest.raises(AdminError, match="switched off"):
        AdminClient(tmp_path).status()
    with pytest.raises(AdminError, match="admin token"):
        AdminClient(tmp_path, "127.0.0.1:1").status()


def test_a_token_is_made_once_and_private(tmp_path: Path) -> None:
    """The second start reads the first one's."""
    made = token.load_or_make(tmp_path)
    assert token.load_or_make(tmp_path) == made
    assert len(made) >= 43
    assert (tmp_path / token.FILE).stat().st_mode & 0o777 == 0o600
