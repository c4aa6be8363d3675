"""`/v1/responses`: items instead of messages, and a stream of named, numbered events from `created` to `completed`."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.simulator import tokens
from proxy.simulator.reply import SSE, Bill, Reply, jsonly
from proxy.simulator.speech import reading
from proxy.simulator.speech.chat import roomy
from proxy.simulator.speech.terms import Call, Refusal, Turn, UsageForm, grouped, tier_of
from proxy.simulator.thinking import Ask, Choice, Tool, think
from proxy.simulator.usage import Tally

ENDPOINT = "responses"
_DECISIVE = ("input", "instructions", "tools", "tool_choice", "text", "temperature", "previous_response_id")
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def prepare(call: Call) -> ResponseAnswer:
    """Read a request and think of its answer. Raises Refusal."""
    ask = _ask(call)
    return ResponseAnswer(call, ask, think(ask, call.seed, call.answers)[0])


def prepare_compact(call: Call) -> Compaction:
    """`responses/compact`: a conversation in fewer words. Raises Refusal."""
    call.body.pop("stream", None)
    return Compaction(prepare(call))


class Compaction:
    """What a response would say, as the items that stand for the conversation."""

    def __init__(self, answer: ResponseAnswer) -> None:
        self.model = answer.model
        self._answer = answer

    def reply(self, turn: Turn) -> Reply:
        reply = self._answer.reply(turn)
        told = orjson.loads(reply.body)
        kept = {name: told[name] for name in ("id", "created_at", "output", "usage")}
        reply.body, reply.kept = orjson.dumps({"object": "response.compaction", **kept}), None
        if reply.bill is not None:
            reply.bill.endpoint = f"{ENDPOINT}.compact"
        return reply


def _ask(call: Call) -> Ask:
    body = call.body
    model = call.model()
    read = reading.Reading()
    if isinstance(body.get("instructions"), str):
        read.text(body["instructions"])
    _read_input(read, body.get("input"))
    tools = _tools(body, read)
    text = body.get("text")
    json, schema = reading.schema_of(text.get("format") if isinstance(text, dict) else None)
    choice = body.get("tool_choice")
    reasoning = body.get("reasoning")
    roomy(read.tokens, model.context)
    return Ask(
        model=model,
        question=read.question,
        identity=reading.identity(body, _DECISIVE),
        input_tokens=read.tokens,
        input_images=read.images,
        input_audio=read.audio,
        prefixes=read.prefixes(),
        cap=call.whole("max_output_tokens", 16) or model.longest,
        tools=tools,
        tool_choice=str(choice.get("name", "required")) if isinstance(choice, dict) else choice,
        parallel=body.get("parallel_tool_calls") is not False,
        after_tool=read.last_role == "tool",
        json=json,
        schema=schema,
        effort=reasoning.get("effort") if isinstance(reasoning, dict) else None,
        length=call.controls.tokens if call.controls.tokens is not None else call.controls.chunks,
    )


def _read_input(read: reading.Reading, given: Any) -> None:
    if isinstance(given, str):
        return read.add("user", given)
    if not isinstance(given, list) or not given:
        raise Refusal(400, "Missing required parameter: 'input'.", param="input", code="missing_required_parameter")
    for item in given:
        if not isinstance(item, dict):
            raise Refusal(400, "Invalid item in 'input'.", param="input")
        if item.get("type") == "function_call_output":
            read.add("tool", str(item.get("output", "")))
        elif item.get("type", "message") == "message":
            read.add(str(item.get("role", "user")), item.get("content"))
        else:
            read.add("assistant", orjson.dumps(item).decode())
    return None


def _tools(body: dict[str, Any], read: reading.Reading) -> tuple[Tool, ...]:
    declared = [t for t in body.get("tools") or () if isinstance(t, dict)]
    if declared:
        read.text(orjson.dumps(declared).decode())
    return tuple(
        reading.tool_of(tool.get("name"), tool.get("parameters")) for tool in declared if tool.get("type") == "function"
    )


class ResponseAnswer:
    """One thought-out response."""

    def __init__(self, call: Call, ask: Ask, choice: Choice) -> None:
        self.model = ask.model
        self.ask = ask
        self.choice = choice
        self.chunks = call.controls.chunks
        self.streamed = call.body.get("stream") is True
        self.tier = tier_of(call.body.get("service_tier"))
        self.stored = call.body.get("store") is not False
        self.echo = {name: call.body.get(name, default) for name, default in _ECHOED.items()}
        self.complete = choice.finish != "length"

    def reply(self, turn: Turn) -> Reply:
        ask, choice = self.ask, self.choice
        cached = turn.prefixes.cached(turn.key, ask.model.name, ask.prefixes)
        tally = Tally(
            input=ask.input_tokens,
            output=choice.output,
            cached=cached,
            reasoning=choice.reasoning,
            input_image=ask.input_images,
            input_audio=ask.input_audio,
        )
        bill = Bill(self.model.served, ENDPOINT, tally, self.tier)
        usage = turn.form.told(_usage(tally))
        answer = self._response(turn, usage)
        kept = (answer["id"], orjson.dumps(answer)) if self.stored else None
        if not self.streamed:
            return jsonly(answer, delay=turn.pace.duration(choice.output), bill=bill, kept=kept)
        steps, final = _Telling(self, turn, answer).steps()
        if turn.form is UsageForm.REPEATED:
            steps.append((steps[-1][0], final))
        return Reply(content_type=SSE, events=turn.pace.timed(steps, b""), terminal=final, bill=bill, kept=kept)

    def _response(self, turn: Turn, usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": f"resp_{turn.id.decode()}",
            "object": "response",
            "created_at": turn.now,
            "status": "completed" if self.complete else "incomplete",
            "background": False,
            "error": None,
            "incomplete_details": None if self.complete else {"reason": "max_output_tokens"},
            "model": self.model.served,
            "output": self.items(turn.id.decode()),
            "service_tier": self.tier,
            "usage": usage,
            **self.echo,
        }

    def items(self, id: str) -> list[dict[str, Any]]:
        """The output: reasoning, then calls or a message."""
        items: list[dict[str, Any]] = []
        if self.choice.reasoning:
            items.append({"id": f"rs_{id}", "type": "reasoning", "summary": []})
        for at, call in enumerate(self.choice.calls):
            made = {"id": f"fc_{id}{at}", "type": "function_call", "status": "completed", "name": call.name}
            items.append({**made, "call_id": f"call_{id}{at}", "arguments": "".join(call.pieces)})
        if not self.choice.calls:
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": self.choice.text}
            status = "completed" if self.complete else "incomplete"
            message = {"id": f"msg_{id}", "type": "message", "status": status, "role": "assistant"}
            items.append({**message, "content": [part]})
        return items


def _usage(tally: Tally) -> dict[str, Any]:
    return {
        "input_tokens": tally.input,
        "input_tokens_details": {"cached_tokens": tally.cached},
        "output_tokens": tally.output,
        "output_tokens_details": {"reasoning_tokens": tally.reasoning},
        "total_tokens": tally.input + tally.output,
    }


class _Telling:
    """The events of one response, numbered as they are told."""

    def __init__(self, answer: ResponseAnswer, turn: Turn, response: dict[str, Any]) -> None:
        self._choice = answer.choice
        self._chunks = answer.chunks
        self._complete = answer.complete
        self._response = response
        self._number = 0
        self._made = 0
        self._steps: list[tuple[int, bytes]] = []

    def steps(self) -> tuple[list[tuple[int, bytes]], bytes]:
        """(the events with the tokens made so far, the terminal event)."""
        begun = {**self._response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
        self._tell("response.created", response=begun)
        self._tell("response.in_progress", response=begun)
        for index, item in enumerate(self._response["output"]):
            self._item(index, item)
        name = "response.completed" if self._complete else "response.incomplete"
        return self._steps, self._event(name, {"response": self._response})

    def _item(self, index: int, item: dict[str, Any]) -> None:
        started = {**item, "status": "in_progress"}
        match item["type"]:
            case "reasoning":
                self._tell("response.output_item.added", output_index=index, item=item)
                self._made += self._choice.reasoning
            case "function_call":
                self._tell("response.output_item.added", output_index=index, item={**started, "arguments": ""})
                self._arguments(index, item)
            case _:
                self._tell("response.output_item.added", output_index=index, item={**started, "content": []})
                self._text(index, item)
        self._tell("response.output_item.done", output_index=index, item=item)

    def _arguments(self, index: int, item: dict[str, Any]) -> None:
        at: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        self._made += tokens.count(item["name"])
        for group in grouped(tokens.pieces(item["arguments"]), self._chunks):
            self._made += len(group)
            self._tell("response.function_call_arguments.delta", **at, delta="".join(group))
        self._tell("response.function_call_arguments.done", **at, name=item["name"], arguments=item["arguments"])

    def _text(self, index: int, item: dict[str, Any]) -> None:
        at: dict[str, Any] = {"item_id": item["id"], "output_index": index, "content_index": 0}
        part = item["content"][0]
        self._tell("response.content_part.added", **at, part={**part, "text": ""})
        for group in grouped(self._choice.pieces, self._chunks):
            self._made += len(group)
            self._tell("response.output_text.delta", **at, delta="".join(group), logprobs=[])
        self._tell("response.output_text.done", **at, text=part["text"], logprobs=[])
        self._tell("response.content_part.done", **at, part=part)

    def _tell(self, event: str, /, **fields: Any) -> None:
        self._steps.append((self._made, self._event(event, fields)))

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        data = orjson.dumps({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
