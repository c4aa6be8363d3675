"""An upstream with a small and a large model, which say what they are told to say; and a cascade before it."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from msgspec import structs

from policies import cascade
from policies.cascade.layer import Cascade
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry

SMALL, LARGE, JUDGE = "gpt-4o-mini", "gpt-4o", "gpt-4.1"
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
Says = Callable[[dict[str, Any]], Any]


def message(text: str = "", end: str = "stop", logprob: float = -0.01, **more: Any) -> dict[str, Any]:
    """A choice; `top` are the likeliest first tokens with their log probabilities; `silent`: it tells none."""
    return {"text": text, "end": end, "logprob": logprob, **more}


@dataclass
class Models:
    """What each model says: a text, a `message`, an int (a status), or a function of the request that gives one."""

    url: str = ""
    says: dict[str, Any] = field(default_factory=lambda: {SMALL: "42", LARGE: "42", JUDGE: "equal"})
    asked: list[dict[str, Any]] = field(default_factory=list)
    pauses: dict[str, asyncio.Event] = field(default_factory=dict)  # before all but the first event of a stream

    def models_asked(self) -> list[str]:
        return [request["model"] for request in self.asked]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                found = _LENGTH.search(head)
                request = orjson.loads(await reader.readexactly(int(found[1])) if found else b"{}")
                self.asked.append(request)
                status, kind, body = self.answer(request)
                lines = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
                head, told = lines.encode(), body
                if (pause := self.pauses.get(request["model"])) is not None and request.get("stream"):
                    first, _, told = body.partition(b"\n\n")
                    writer.write(head + first + b"\n\n")
                    head = b""
                    await pause.wait()
                writer.write(head + told)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, request: dict[str, Any]) -> tuple[int, str, bytes]:
        says = self.says[request["model"]]
        says = says(request) if callable(says) else says
        if isinstance(says, int):
            return says, "application/json", orjson.dumps({"error": {"message": "no", "type": "x"}})
        choice = says if isinstance(says, dict) else message(says)
        if request.get("stream"):
            return 200, "text/event-stream", _events(request, choice)
        return 200, "application/json", orjson.dumps(_whole(request, choice))


def _logprobs(request: dict[str, Any], pieces: list[str], choice: dict[str, Any]) -> Any:
    if not request.get("logprobs") or choice.get("silent"):
        return None
    told: list[dict[str, Any]] = [{"token": piece, "logprob": choice["logprob"]} for piece in pieces]
    if request.get("top_logprobs"):
        top = choice.get("top", {})
        told[0]["top_logprobs"] = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
    return {"content": told}


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def _common(request: dict[str, Any], kind: str) -> dict[str, Any]:
    served = request["model"] + "-2024-08-06"
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": served}


def _usage(choice: dict[str, Any]) -> dict[str, int]:
    output = max(1, len(_pieces(choice["text"])))
    return {"prompt_tokens": 1000, "completion_tokens": output, "total_tokens": 1000 + output}


def _whole(request: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    calls = {"tool_calls": choice["calls"]} if "calls" in choice else {}
    told = {"role": "assistant", "content": choice["text"] or None, "refusal": choice.get("refusal"), **calls}
    one = {
        "index": 0,
        "message": told,
        "finish_reason": choice["end"],
        "logprobs": _logprobs(request, _pieces(choice["text"]), choice),
    }
    choices = [{**one, "index": at} for at in range(request.get("n") or 1)]
    return {**_common(request, "chat.completion"), "choices": choices, "usage": _usage(choice)}


def _events(request: dict[str, Any], choice: dict[str, Any]) -> bytes:
    common, told = _common(request, "chat.completion.chunk"), []
    for piece in _pieces(choice["text"]):
        delta = {"index": 0, "delta": {"content": piece}, "logprobs": _logprobs(request, [piece], choice)}
        told.append({**common, "choices": [{**delta, "finish_reason": None}]})
    told.append({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["end"]}]})
    told.append({**common, "choices": [], "usage": _usage(choice)})
    return b"".join([b"data: " + orjson.dumps(each) + b"\n\n" for each in told]) + b"data: [DONE]\n\n"


@asynccontextmanager
async def upstream() -> AsyncIterator[Models]:
    """One on a port that the kernel chooses."""
    models = Models()
    server = await asyncio.start_server(models.serve, "127.0.0.1", 0)
    models.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield models
    finally:
        server.close()


@asynccontextmanager
async def cascading(serve: Serve, models: Models, **options: Any) -> AsyncIterator[Plane]:
    """A data plane with a cascade before these models; `settings` are of the data plane."""
    settings, outside = options.pop("settings", {}), options.pop("outside", [])
    given = {
        "rungs": [SMALL, LARGE],
        "max_quality_loss": "50 points",
        "confidence": "80%",
        "judge": {"equality": "numeric"},
        "shadow_rate": "100%",
        **options,
    }
    registry = {"cascade": cascade, **settings.pop("registry", {})}
    policies = [*outside, entry("cascade", 3, **given)]
    async with serve(url=models.url, policies=policies, registry=registry, **settings) as plane:
        yield plane


def layer(plane: Plane) -> Cascade:
    """The running cascade."""
    (found,) = [item.policy for item in plane.plane.state.chain.built if isinstance(item.policy, Cascade)]
    return found


def ticking(plane: Plane) -> None:
    """From now on the cascade's clock is a second later at each look: an answer takes time, however quick it is."""
    found, ticks = layer(plane), itertools.count()
    found.services = structs.replace(found.services, clock=lambda: float(next(ticks)))


async def certify(plane: Plane, most: int = 400, **fields: Any) -> int:
    """Asks until the cascade is certified; says how often."""
    for number in range(most):
        question = [{"role": "user", "content": f"What is {number} plus one?"}]
        await plane.chat(model=LARGE, messages=question, **fields)
        await plane.quiet()
        if any(each.status == "certified" for each in layer(plane).classes):
            return number + 1
    raise AssertionError(f"not certified: {[each.report() for each in layer(plane).classes]}")
