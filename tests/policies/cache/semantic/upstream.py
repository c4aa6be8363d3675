"""A provider whose answers are a function of the last user turn, on a real socket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Scripted:
    """The provider: what it answers by, and what it was asked."""

    answer: Callable[[str], str]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)

    def turns(self) -> list[str]:
        """The last turns that it was asked, in order."""
        return [str(body["messages"][-1]["content"]) for body in self.asked if "messages" in body]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        text = self.answer(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        number = f"chatcmpl-{len(self.asked)}"
        about = {"id": number, "created": 1, "model": body["model"]}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            whole = {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = {**about, "object": "chat.completion.chunk"}
        for delta, finish in (({"role": "assistant", "content": text}, None), ({}, "stop")):
            piece = {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            await response.write(b"data: %b\n\n" % json.dumps(piece).encode())
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(b"data: %b\n\n" % json.dumps({**chunk, "choices": [], "usage": usage}).encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    async def embeddings(self, request: web.Request) -> web.Response:
        """Vectors by words, so that alike texts are near."""
        body = await request.json()
        self.asked.append(body)
        vector = [0.0] * 64
        for word in body["input"].lower().split():
            vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big") % 64] += 1.0
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})


@asynccontextmanager
async def scripted(answer: Callable[[str], str]) -> AsyncIterator[Scripted]:
    """A provider that runs."""
    provider = Scripted(answer)
    application = web.Application()
    application.router.add_post("/v1/chat/completions", provider.chat)
    application.router.add_post("/v1/embeddings", provider.embeddings)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    provider.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield provider
    finally:
        await runner.cleanup()
