"""`/v1/chat/completions`: the endpoint that benchmarks run against, so its answers are put together from ready bytes.

A unary answer is id and clock spliced into a template; a stream's chunks share one head a stream and ready tails.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.simulator import tokens
from proxy.simulator.reply import SSE, Bill, Reply
from proxy.simulator.speech import reading
from proxy.simulator.speech.terms import FINGERPRINT, Call, Refusal, Turn, UsageForm, grouped, openai_usage, tier_of
from proxy.simulator.thinking import Ask, Choice, Tool, drawn, think
from proxy.simulator.usage import Tally

DONE = b"data: [DONE]\n\n"
ENDPOINT = "chat.completions"
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_DECISIVE = ("messages", "tools", "tool_choice", "functions", "response_format", "seed", "temperature", "stop", "n")


def prepare(call: Call) -> ChatAnswer:
    """Read a chat request and think of its answer. Raises Refusal."""
    ask = _ask(call)
    return ChatAnswer(call, ask, think(ask, call.seed, call.answers))


def _ask(call: Call) -> Ask:
    body = call.body
    model = call.model()
    read = reading.Reading()
    for message in reading.listed(body, "messages"):
        _message(read, message)
    tools = _tools(body, read)
    json, schema = reading.schema_of(body.get("response_format"))
    if schema is not None:
        read.text(orjson.dumps(schema).decode())
    if model.reasoning and body.get("max_tokens") is not None:
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise Refusal(400, message, param="max_tokens", code="unsupported_parameter")
    length = call.controls.tokens if call.controls.tokens is not None else call.controls.chunks
    caps = [c for c in (call.whole("max_completion_tokens", 1), call.whole("max_tokens", 1)) if c is not None]
    roomy(read.tokens, model.context)
    return Ask(
        model=model,
        question=read.question,
        identity=reading.identity(body, _DECISIVE),
        input_tokens=read.tokens,
        input_images=read.images,
        input_audio=read.audio,
        prefixes=read.prefixes(),
        n=call.whole("n", 1, 128) or 1,
        cap=min(caps, default=model.longest if length is None else None),
        stops=reading.stops(body.get("stop")),
        tools=tools,
        tool_choice=_tool_choice(body.get("tool_choice")),
        parallel=body.get("parallel_tool_calls") is not False,
        after_tool=read.last_role == "tool",
        json=json,
        schema=schema,
        effort=body.get("reasoning_effort"),
        logprobs=body.get("logprobs") is True,
        top_logprobs=call.whole("top_logprobs", 0, 20) or 0,
        length=length,
    )


def roomy(input_tokens: int, context: int) -> None:
    """Refuse what does not fit the model's context. Raises Refusal."""
    if input_tokens > context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your messages resulted in"
            f" {input_tokens} tokens. Please reduce the length of the messages."
        )
        raise Refusal(400, message, param="messages", code="context_length_exceeded")


def _message(read: reading.Reading, message: Any) -> None:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise Refusal(400, "Invalid value for 'messages[].role'.", param="messages", code="invalid_value")
    read.add(message["role"], message.get("content"))
    if isinstance(message.get("name"), str):
        read.text(message["name"])
    for called in message.get("tool_calls") or ():
        read.text(orjson.dumps(called.get("function") if isinstance(called, dict) else called).decode())


def _tools(body: dict[str, Any], read: reading.Reading) -> tuple[Tool, ...]:
    tools = []
    for declared in body.get("tools") or ():
        function = declared.get("function") if isinstance(declared, dict) else None
        if isinstance(function, dict):
            tools.append(reading.tool_of(function.get("name"), function.get("parameters")))
    if tools:
        read.text(orjson.dumps(body["tools"]).decode())
    return tuple(tools)


def _tool_choice(choice: Any) -> str | None:
    if isinstance(choice, dict):
        return str((choice.get("function") or {}).get("name", "required"))
    return choice if isinstance(choice, str) else None


class ChatAnswer:
    """One thought-out chat answer; `reply` words it, unary or streamed."""

    def __init__(self, call: Call, ask: Ask, choices: list[Choice]) -> None:
        self.ask = ask
        self.model = ask.model
        self.choices = choices
        self.chunks = call.controls.chunks
        self.tier = tier_of(call.body.get("service_tier"))
        self.streamed = call.body.get("stream") is True
        options = call.body.get("stream_options")
        self.include_usage = isinstance(options, dict) and options.get("include_usage") is True
        self.output = sum(choice.output for choice in choices)
        self._reasoning = sum(choice.reasoning for choice in choices)
        self._longest = max(choice.output for choice in choices)
        self._unary: dict[tuple[int, UsageForm], bytes] = {}
        self._steps: list[tuple[int, bytes]] | None = None

    def tally(self, turn: Turn) -> Tally:
        """The usage of one answer: only the cache hits differ between turns."""
        ask = self.ask
        cached = turn.prefixes.cached(turn.key, ask.model.name, ask.prefixes) if ask.prefixes else 0
        return Tally(
            input=ask.input_tokens,
            output=self.output,
            cached=cached,
            reasoning=self._reasoning,
            input_audio=ask.input_audio,
            input_image=ask.input_images,
        )

    def reply(self, turn: Turn) -> Reply:
        tally = self.tally(turn)
        bill = Bill(self.ask.model.served, ENDPOINT, tally, self.tier)
        if self.streamed:
            return self._stream(turn, tally, bill)
        at = (tally.cached, turn.form)
        rest = self._unary.get(at)
        if rest is None:
            rest = self._unary[at] = self._rest(turn.form.told(openai_usage(tally)))
        body = b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,%b' % (turn.id, turn.now, rest)
        return Reply(body=body, delay=turn.pace.duration(self._longest), bill=bill)

    def _rest(self, usage: dict[str, Any] | None) -> bytes:
        answer: dict[str, Any] = {
            "model": self.ask.model.served,
            "choices": [*map(self._choice, range(len(self.choices)))],
        }
        if usage is not None:
            answer["usage"] = usage
        answer |= {"service_tier": self.tier, "system_fingerprint": FINGERPRINT}
        return orjson.dumps(answer)[1:]

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self.choices[index]
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
        if choice.calls:
            message["content"] = None
            message["tool_calls"] = [
                {
                    "id": self._call_id(index, at),
                    "type": "function",
                    "function": {"name": made.name, "arguments": "".join(made.pieces)},
                }
                for at, made in enumerate(choice.calls)
            ]
        logprobs = self._logprobs(choice.pieces, choice, 0) if self.ask.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}

    def _call_id(self, index: int, at: int) -> str:
        return f"call_{int(drawn(self.ask.identity, index, at) * 2**64):016x}{index:04x}{at:04x}"

    def _logprobs(self, pieces: list[str], choice: Choice, at: int) -> dict[str, Any]:
        """Doubtful answers have lower probabilities, so that confidence can be told from them."""
        content = []
        for offset, piece in enumerate(pieces):
            logprob = round(-choice.doubt * (0.2 + 1.6 * drawn(self.ask.identity, at + offset)), 6)
            likely = [(piece, logprob)] + [(f" alt{n}", logprob - 1.0 - n) for n in range(1, self.ask.top_logprobs)]
            told = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in likely]
            content.append({**told[0], "top_logprobs": told[: self.ask.top_logprobs]})
        return {"content": content, "refusal": None}

    # Streamed

    def _stream(self, turn: Turn, tally: Tally, bill: Bill) -> Reply:
        if self._steps is None:
            self._steps = self._all_steps()
        head = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,' % (turn.id, turn.now)
        steps = self._steps
        usage = turn.form.told(openai_usage(tally)) if self.include_usage else None
        if usage is not None:
            steps = self._with_usage(steps, usage, turn.form)
        events = turn.pace.timed(steps, head, len(self.choices))
        return Reply(content_type=SSE, events=events, terminal=DONE, bill=bill)

    def _with_usage(
        self, steps: list[tuple[int, bytes]], usage: dict[str, Any], form: UsageForm
    ) -> list[tuple[int, bytes]]:
        if form is UsageForm.WITH_CHOICE:
            made, last = steps[-1]
            return [*steps[:-1], (made, last.replace(b'"usage":null', b'"usage":' + orjson.dumps(usage)))]
        final = (self.output, self._tail([], usage))
        return [*steps, *[final] * (2 if form is UsageForm.REPEATED else 1)]

    def _all_steps(self) -> list[tuple[int, bytes]]:
        """The chunks of all choices, in turn; the tokens they carry add up to the output."""
        tracks = [self._track(index, choice) for index, choice in enumerate(self.choices)]
        made = 0
        steps = []
        for position in range(max(map(len, tracks))):
            for track in tracks:
                if position < len(track):
                    made += track[position][0]
                    steps.append((made, self._tail([track[position][1]])))
        return steps

    def _track(self, index: int, choice: Choice) -> list[tuple[int, dict[str, Any]]]:
        """(tokens, choice delta) of each chunk of one choice."""

        def delta(made: int, delta: dict[str, Any], logprobs: Any = None) -> tuple[int, dict[str, Any]]:
            return made, {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

        opening = {"role": "assistant", "content": None if choice.calls else "", "refusal": None}
        track = [delta(choice.reasoning, opening)]
        at = 0
        for group in grouped(choice.pieces, self.chunks):
            logprobs = self._logprobs(group, choice, at) if self.ask.logprobs else None
            track.append(delta(len(group), {"content": "".join(group)}, logprobs))
            at += len(group)
        for number, made in enumerate(choice.calls):
            function = {"name": made.name, "arguments": ""}
            start = {"index": number, "id": self._call_id(index, number), "type": "function", "function": function}
            track.append(delta(tokens.count(made.name), {"tool_calls": [start]}))
            for group in grouped(made.pieces, self.chunks):
                piece = {"index": number, "function": {"arguments": "".join(group)}}
                track.append(delta(len(group), {"tool_calls": [piece]}))
        track.append((0, {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice.finish}))
        return track

    def _tail(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk: dict[str, Any] = {
            "model": self.ask.model.served,
            "service_tier": self.tier,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }
        if self.include_usage:
            chunk["usage"] = usage
        return orjson.dumps(chunk)[1:] + b"\n\n"
