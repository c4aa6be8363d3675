"""`python -m bench.restarts [--quick]`: 20 rolling restarts, then reloads, while 100 clients stream: nobody may notice.

Two workers. Each client streams in a loop over a connection that it keeps (as SDKs' pools do), opens a new one when it
was told `connection: close` or finds it closed before it sends, and sends nothing twice: what is cut, refused or
incomplete is a failure. A pause of up to 50 ms between two streams, drawn, leaves connections idle at any moment of a
drain. Then the deployment file changes, as often as restarts, at the same load. Exit status 1 when anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import select
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console

from bench import payloads, runner
from bench.load import wire
from bench.load.streams import check
from bench.results import Row, judged
from bench.subjects import Setting, StreamUpstream, Weir, upstream
from proxy.admin.client import AdminClient

SUITE = "faults"
CHUNKS, GAP_MS = 20, 25
CLIENTS, TIMES = 100, 20
PAUSE_S = 0.05
_COMMENT = b": weir "


class Restarted(Weir):
    """Two workers."""

    def deployment(self, home: Path) -> str:
        return super().deployment(home).replace("workers: 1", "workers: 2")


@dataclass(slots=True)
class Seen:
    """What the clients saw."""

    done: int = 0
    opened: int = 0
    closed_idle: int = 0  # found closed before a request was sent
    told: int = 0  # told that the connection ends
    wrong: Counter[str] = field(default_factory=Counter)


class Client:
    """One connection at a time, kept as long as it may be."""

    def __init__(self, url: str, request: bytes, seen: Seen) -> None:
        self._where = wire.address(url)
        self._request = request
        self._seen = seen
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, until: asyncio.Event, seed: int) -> None:
        rng = random.Random(seed)
        while not until.is_set():
            try:
                await self._one()
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self._seen.wrong[f"{type(error).__name__}: {error}"[:100]] += 1
                self._drop()
            await asyncio.sleep(rng.random() * PAUSE_S)
        self._drop()

    async def _one(self) -> None:
        if self._streams is not None and _readable(self._streams[1]):  # as httpcore looks before it sends
            self._seen.closed_idle += 1
            self._drop()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._where.host, self._where.port)
            self._seen.opened += 1
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
            code = re.search(rb'"code": ?"([^"]*)"', await reader.readexactly(int(length[1])) if length else b"")
            raise ValueError(f"{head[9:12].decode()} {code[1].decode() if code else ''}")
        body = bytearray()
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        whole = b"".join(part + b"\n\n" for part in bytes(body).split(b"\n\n")[:-1] if not part.startswith(_COMMENT))
        if (problem := check(whole, CHUNKS)) is not None:
            raise ValueError(problem)
        self._seen.done += 1
        if b"\r\nconnection: close\r\n" in head.lower():
            self._seen.told += 1
            self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _readable(writer: asyncio.StreamWriter) -> bool:
    if writer.is_closing():
        return True
    poller = select.poll()
    poller.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poller.poll(0))


async def _under_load(url: str, request: bytes, act: list[object], times: int, say: Console) -> tuple[Seen, float]:
    """Acts `times` times while the clients run; what they saw, and how long one took."""
    seen, until = Seen(), asyncio.Event()
    clients = [
        asyncio.create_task(Client(url, request, seen).run(until, number), name="client") for number in range(CLIENTS)
    ]
    await asyncio.sleep(1.5)
    began, name, do = time.monotonic(), act[0], act[1]
    for number in range(times):
        await asyncio.to_thread(do, number)  # type: ignore[arg-type]
        if seen.wrong:
            say.print(f"after {name} {number + 1}: {dict(seen.wrong)}", markup=False)
    each_s = (time.monotonic() - began) / times
    await asyncio.sleep(1.0)
    until.set()
    await asyncio.gather(*clients)
    return seen, each_s


def rows(setting: Setting, times: int, say: Console) -> list[Row]:
    with ExitStack() as stack:
        provider, origin = upstream(StreamUpstream, setting, tls=False)
        stack.enter_context(provider)
        weir = stack.enter_context(Restarted(setting, origin))
        home = setting.directory / f"weir-{weir.port}"
        request = wire.request(weir.url, payloads.stream_request(CHUNKS, GAP_MS))
        admin = AdminClient(home)

        def restart(_: int) -> None:
            admin.restart()
            while (status := admin.status()).restarting:
                time.sleep(0.05)
            if status.restart_problem:
                raise RuntimeError(status.restart_problem)

        text = (home / "weir.yaml").read_text()

        def reload(number: int) -> None:
            (home / "weir.yaml").write_text(f"{text}heartbeat_s: {16 + number}\n")
            outcome = admin.reload()
            if not outcome.ok:
                raise RuntimeError(outcome.problems)
            time.sleep(0.25)

        restarted, took_s = uvloop.run(_under_load(weir.url, request, ["restart", restart], times, say))
        reloaded, reload_s = uvloop.run(_under_load(weir.url, request, ["reload", reload], times, say))
        status = admin.status()
    return [
        _row(f"{times} rolling restarts of 2 workers, {CLIENTS} streaming clients", restarted, took_s),
        _row(f"{times} reloads, {CLIENTS} streaming clients", reloaded, reload_s),
        judged(
            "workers replaced, none died",
            f"{2 * times}, 0",
            f"{status.replaced}, {status.restarts}",
            (status.replaced, status.restarts) == (2 * times, 0),
        ),
    ]


def _row(name: str, seen: Seen, each_s: float) -> Row:
    return judged(
        name,
        "0 failed",
        f"{seen.wrong.total()} failed of {seen.done + seen.wrong.total()}",
        not seen.wrong and seen.done > CLIENTS,
        f"{each_s:.1f} s each; {seen.opened} connections opened, {seen.told} ended by `connection: close`, "
        f"{seen.closed_idle} found closed before sending",
        wrong=dict(seen.wrong),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.restarts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three of each")
    times = 3 if parser.parse_args(arguments).quick else TIMES
    return runner.run("restarts", lambda setting, say: rows(setting, times, say))


if __name__ == "__main__":
    sys.exit(main())
