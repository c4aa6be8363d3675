"""A worker that speaks the supervisor's contract and answers every request with what it was told.

Its `configuration` is a JSON object: `hash`, and how it shall misbehave: `reject` (refuse with this reason), `die`
(exit with this status before it is ready), `mute` (never answer). Paths: `/die` kills it, `/lookup/ID` asks the
supervisor, `/slow` answers when `/go` was asked for, anything else answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
from typing import Any

from proxy.control import Channel
from proxy.metrics import Metrics


class FakeWorker:
    def __init__(self, channel: Channel, listeners: list[socket.socket], index: int) -> None:
        self.channel = channel
        self.listeners = listeners
        self.index = index
        self.told: dict[str, Any] = {}
        self.metrics = Metrics()
        self.servers: list[asyncio.Server] = []
        self.go = asyncio.Event()
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.answers: dict[str, asyncio.Future[Any]] = {}
        self.over = asyncio.Event()

    async def lead(self) -> None:
        async for message in self.channel:
            await getattr(self, f"on_{message.pop('type')}")(**message)
        await self.over.wait()  # the supervisor is gone: go on serving

    async def on_configure(self, **told: Any) -> None:
        configuration = json.loads(told["configuration"])
        if configuration.get("die") is not None:
            os._exit(configuration["die"])
        if configuration.get("mute"):
            return
        if reason := configuration.get("reject"):
            self.channel.send("rejected", message=reason)
            return
        self.told = {**told, "hash": configuration["hash"], "keys": self.keys_of(told)}
        self.channel.send("configured", hash=configuration["hash"])
        if not self.servers:
            self.servers = [await asyncio.start_server(self.serve, sock=sock) for sock in self.listeners]
            self.channel.send("ready", pid=os.getpid())
            self.channel.send("log", level="info", event="hello", fields={"authorization": "Bearer wk-secret-secret"})

    async def on_keys(self, **told: Any) -> None:
        self.told["keys"] = self.keys_of(told)

    def keys_of(self, told: Any) -> Any:
        """The table as a message leaves it."""
        whole, changed = (
            [key for portion in told.get(name, ()) for key in json.loads(portion)] for name in ("keys", "changed_keys")
        )
        before = [] if "keys" in told else self.told.get("keys", [])
        gone = {*told.get("gone_keys", ()), *(key["sha256"] for key in changed)}
        return [*(key for key in before if key["sha256"] not in gone), *whole, *changed]

    async def on_bypass(self, on: bool) -> None:
        self.told["bypass"] = on

    async def on_snapshot(self) -> None:
        self.channel.send("metrics", snapshot=self.metrics.snapshot())

    async def on_answer(self, id: str, record: Any) -> None:
        self.answers.pop(id).set_result(record)

    async def on_drain(self, timeout_s: float, idle_s: float) -> None:
        for server in self.servers:
            server.close()
        self.draining = asyncio.create_task(self.drain(timeout_s))

    async def drain(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self.idle.wait(), timeout_s)
        except TimeoutError:
            return
        self.channel.send("drained")

    async def on_stop(self) -> None:
        os._exit(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1].decode()
                body = json.dumps(await self.answer(path)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, path: str) -> dict[str, Any]:
        self.running += 1
        self.idle.clear()
        self.metrics.exchange("chat.completions", "m", 200, "complete", 0.01)
        self.metrics.gauges.exchanges += 1
        try:
            if path == "/die":
                self.channel.send("metrics", snapshot=self.metrics.snapshot())
                await asyncio.sleep(0.05)
                os._exit(3)
            if path == "/go":
                self.go.set()
            if path == "/slow":
                await self.go.wait()
            record = await self.lookup(path.rpartition("/")[2]) if path.startswith("/lookup/") else None
        finally:
            self.metrics.gauges.exchanges -= 1
            self.running -= 1
            if not self.running:
                self.idle.set()
        return {
            "pid": os.getpid(),
            "index": self.index,
            "hash": self.told.get("hash"),
            "keys": [key["id"] for key in self.told.get("keys", ())],
            "bypass": self.told.get("bypass"),
            "cards": self.told.get("cards"),
            "state": self.told.get("state"),
            "record": record,
        }

    async def lookup(self, exchange: str) -> Any:
        self.answers["1"] = asyncio.get_running_loop().create_future()
        waiting = self.answers["1"]
        self.channel.send("lookup", id="1", kind="exchange", exchange=exchange, tenant="acme")
        return await waiting


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--control", type=int, required=True)
    options.add_argument("--listen", required=True)
    options.add_argument("--index", type=int, required=True)
    given = options.parse_args()
    listeners = [socket.socket(fileno=int(fd)) for fd in given.listen.split(",")]
    for sock in listeners:
        sock.setblocking(False)
    channel = await Channel.open(socket.socket(fileno=given.control))
    await FakeWorker(channel, listeners, given.index).lead()


if __name__ == "__main__":
    asyncio.run(main())
