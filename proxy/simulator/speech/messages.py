"""Anthropic's `/v1/messages` and its `count_tokens`: blocks, cumulative usage, pings, and caching where asked for.

Usage follows that API: `input_tokens` leaves out what was read from or written to the cache.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson

from proxy.simulator import tokens
from proxy.simulator.reply import SSE, Bill, Reply, jsonly
from proxy.simulator.speech import reading
from proxy.simulator.speech.terms import Call, Refusal, Turn, UsageForm, grouped, tier_of
from proxy.simulator.thinking import Ask, Choice, Tool, think
from proxy.simulator.usage import Tally

ENDPOINT = "messages"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_DECISIVE = ("messages", "system", "tools", "tool_choice", "temperature", "stop_sequences")
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_CACHE_FROM = 1024
# What a block has before its deltas.
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "tool_use": {"input": {}},
    "thinking": {"thinking": "", "signature": ""},
}


def prepare(call: Call) -> MessageAnswer:
    """Read a request and think of its answer. Raises Refusal."""
    if call.whole("max_tokens", 1) is None:
        raise Refusal(400, "max_tokens: Field required")
    ask, marks = _ask(call)
    return MessageAnswer(call, ask, marks, think(ask, call.seed, call.answers)[0])


def prepare_count(call: Call) -> CountAnswer:
    """`count_tokens`: the input tokens that the same request would be billed. Raises Refusal."""
    return CountAnswer(_ask(call)[0])


class Mark:
    """The last cached prefix that a request asks for: its tokens, hash and time to live."""

    def __init__(self) -> None:
        self.tokens = 0
        self.digest = b""
        self.hour = False


def _ask(call: Call) -> tuple[Ask, Mark]:
    body = call.body
    model = call.model()
    read, mark, digest = reading.Reading(), Mark(), blake2b(digest_size=12)
    tools = _tools(body, read)
    _marked(mark, digest, body.get("tools"), read)
    if body.get("system"):
        read.add("system", body["system"])
        _marked(mark, digest, body["system"], read)
    for message in reading.listed(body, "messages"):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise Refusal(400, 'messages: roles must be "user" or "assistant"')
        content = message.get("content")
        results = isinstance(content, list) and any(
            isinstance(part, dict) and part.get("type") == "tool_result" for part in content
        )
        read.add("tool" if results else message["role"], content)
        _marked(mark, digest, content, read)
    if read.tokens > model.context:
        raise Refusal(400, f"prompt is too long: {read.tokens} tokens > {model.context} maximum")
    choice = body.get("tool_choice")
    thinking = body.get("thinking")
    named = choice if isinstance(choice, dict) else {}
    wanted = {"any": "required", "tool": named.get("name"), "none": "none"}.get(str(named.get("type")))
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        budget = int(thinking.get("budget_tokens") or 1024)
        model = type(model)(**{**_fields(model), "reasoning": (budget // 16, budget // 4)})
    return Ask(
        model=model,
        question=read.question,
        identity=reading.identity(body, _DECISIVE),
        input_tokens=read.tokens,
        input_images=read.images,
        cap=min(call.whole("max_tokens", 1) or model.longest, model.longest),
        stops=reading.stops(body.get("stop_sequences")),
        tools=tools,
        tool_choice=wanted,
        parallel=named.get("disable_parallel_tool_use") is not True,
        after_tool=read.last_role == "tool",
        length=call.controls.tokens if call.controls.tokens is not None else call.controls.chunks,
    ), mark


def _fields(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__struct_fields__}


def _tools(body: dict[str, Any], read: reading.Reading) -> tuple[Tool, ...]:
    declared = [t for t in body.get("tools") or () if isinstance(t, dict)]
    if declared:
        read.text(orjson.dumps(declared).decode())
    return tuple(reading.tool_of(tool.get("name"), tool.get("input_schema")) for tool in declared)


def _marked(mark: Mark, digest: Any, content: Any, read: reading.Reading) -> None:
    """Move the mark to here where a block of `content` has `cache_control`."""
    digest.update(orjson.dumps(content))
    for block in content if isinstance(content, list) else ():
        control = block.get("cache_control") if isinstance(block, dict) else None
        if isinstance(control, dict) and read.tokens >= _CACHE_FROM:
            mark.tokens, mark.digest, mark.hour = read.tokens, digest.digest(), control.get("ttl") == "1h"


class CountAnswer:
    """The answer of `count_tokens`; it is free."""

    def __init__(self, ask: Ask) -> None:
        self.model = ask.model
        self._count = ask.input_tokens

    def reply(self, turn: Turn) -> Reply:
        return jsonly({"input_tokens": self._count})


class MessageAnswer:
    """One thought-out message."""

    def __init__(self, call: Call, ask: Ask, mark: Mark, choice: Choice) -> None:
        self.model = ask.model
        self.ask = ask
        self.mark = mark
        self.choice = choice
        self.chunks = call.controls.chunks
        self.streamed = call.body.get("stream") is True
        self.tier = "default" if call.body.get("service_tier") != "priority" else tier_of("priority")

    def reply(self, turn: Turn) -> Reply:
        tally = self._tally(turn)
        bill = Bill(self.model.served, ENDPOINT, tally, self.tier)
        id = turn.id.decode()
        message: dict[str, Any] = {
            "id": f"msg_{id}",
            "type": "message",
            "role": "assistant",
            "model": self.model.served,
        }
        message |= {"content": [], "stop_reason": None, "stop_sequence": None}
        if self.streamed:
            steps = self._steps(message, self._blocks(id), tally, turn.form)
            return Reply(
                content_type=SSE,
                headers=[(b"request-id", b"req_" + turn.id)],
                events=turn.pace.timed(steps, b""),
                terminal=_event("message_stop", {}),
                bill=bill,
            )
        usage = turn.form.told(self._usage(tally))
        message |= {"content": self._blocks(id), "stop_reason": _STOP[self.choice.finish]}
        message |= {} if usage is None else {"usage": usage}
        headers = [(b"request-id", b"req_" + turn.id)]
        return jsonly(message, headers=headers, delay=turn.pace.duration(tally.output), bill=bill)

    def _tally(self, turn: Turn) -> Tally:
        mark = self.mark
        tally = Tally(input=self.ask.input_tokens, output=self.choice.output, reasoning=self.choice.reasoning)
        tally.input_image = self.ask.input_images
        if mark.tokens:
            tally.cached = turn.prefixes.cached(turn.key, self.model.name, [(mark.tokens, mark.digest)])
            tally.cache_write = 0 if tally.cached else mark.tokens
            tally.cache_write_1h = tally.cache_write if mark.hour else 0
        return tally

    def _usage(self, tally: Tally) -> dict[str, Any]:
        short = tally.cache_write - tally.cache_write_1h
        return {
            "input_tokens": tally.input - tally.cached - tally.cache_write,
            "cache_creation_input_tokens": tally.cache_write,
            "cache_read_input_tokens": tally.cached,
            "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": tally.cache_write_1h},
            "output_tokens": tally.output,
            "service_tier": "standard" if self.tier == "default" else self.tier,
        }

    def _blocks(self, id: str) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if self.choice.reasoning:
            blocks.append({"type": "thinking", "thinking": "The river decides.", "signature": "c2lnbmVk"})
        for at, call in enumerate(self.choice.calls):
            arguments = orjson.loads("".join(call.pieces))
            blocks.append({"type": "tool_use", "id": f"toolu_{id}{at}", "name": call.name, "input": arguments})
        if not self.choice.calls:
            blocks.append({"type": "text", "text": self.choice.text})
        return blocks

    def _steps(
        self, message: dict[str, Any], blocks: list[dict[str, Any]], tally: Tally, form: UsageForm
    ) -> list[tuple[int, bytes]]:
        """The events; usage comes first without the output, and last with all of it."""
        first = form.told({**self._usage(tally), "output_tokens": min(1, tally.output)})
        opening: dict[str, Any] = {**message, **({} if first is None else {"usage": first})}
        steps = [(0, _event("message_start", {"message": opening}))]
        made, calls = 0, iter(self.choice.calls)
        for index, block in enumerate(blocks):
            kind = block["type"]
            deltas = self._deltas(block, next(calls).pieces if kind == "tool_use" else self.choice.pieces)
            opened = {**block, **_EMPTY[kind]}
            made += tokens.count(block["name"]) if kind == "tool_use" else 0
            steps.append((made, _event("content_block_start", {"index": index, "content_block": opened})))
            if not index:
                steps.append((made, PING))
            for count, delta in deltas:
                made += count
                steps.append((made, _event("content_block_delta", {"index": index, "delta": delta})))
            steps.append((made, _event("content_block_stop", {"index": index})))
        usage = form.told({"input_tokens": self._usage(tally)["input_tokens"], "output_tokens": tally.output})
        ending: dict[str, Any] = {"delta": {"stop_reason": _STOP[self.choice.finish], "stop_sequence": None}}
        ending |= {} if usage is None else {"usage": usage}
        final = (made, _event("message_delta", ending))
        return [*steps, *[final] * (2 if form is UsageForm.REPEATED else 1)]

    def _deltas(self, block: dict[str, Any], pieces: list[str]) -> list[tuple[int, dict[str, Any]]]:
        if block["type"] == "thinking":
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return [
                (self.choice.reasoning, {"type": "thinking_delta", "thinking": block["thinking"]}),
                (0, signed),
            ]
        groups = grouped(pieces, self.chunks)
        if block["type"] == "tool_use":
            return [(len(g), {"type": "input_json_delta", "partial_json": "".join(g)}) for g in groups]
        return [(len(g), {"type": "text_delta", "text": "".join(g)}) for g in groups]


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))
