"""`/v1/completions`: the old form, with one or many prompts, as text or as tokens."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.simulator import tokens
from proxy.simulator.reply import SSE, Bill, Reply, jsonly
from proxy.simulator.speech import reading
from proxy.simulator.speech.chat import DONE, roomy
from proxy.simulator.speech.terms import FINGERPRINT, Call, Refusal, Turn, UsageForm, grouped, openai_usage
from proxy.simulator.thinking import Ask, Choice, think
from proxy.simulator.usage import Tally

ENDPOINT = "completions"
_DEFAULT_CAP = 16
_DECISIVE = ("prompt", "seed", "suffix", "temperature", "stop")


def prompts_of(body: dict[str, Any], name: str) -> list[tuple[str, int]]:
    """(text, tokens) of each prompt: a text, texts, a list of tokens, or lists of tokens. Raises Refusal."""
    value = body.get(name)
    if isinstance(value, str):
        return [(value, tokens.count(value))]
    if isinstance(value, list) and value:
        if all(isinstance(part, int) for part in value):
            return [(" ".join(map(str, value)), len(value))]
        return [prompts_of({name: part}, name)[0] for part in value]
    raise Refusal(400, f"Missing or invalid parameter: '{name}'.", param=name)


def prepare(call: Call) -> CompletionAnswer:
    """Read a completion request and think of its answers. Raises Refusal."""
    return CompletionAnswer(call)


class CompletionAnswer:
    """The answers to all prompts."""

    def __init__(self, call: Call) -> None:
        body = call.body
        self.model = model = call.model()
        prompts = prompts_of(body, "prompt")
        self.n = call.whole("n", 1, 128) or 1
        cap = call.whole("max_tokens", 1)
        length = call.controls.tokens if call.controls.tokens is not None else call.controls.chunks
        self.choices: list[Choice] = []
        self.echoed: list[str] = []
        for text, count in prompts:
            roomy(count, model.context)
            ask = Ask(
                model=model,
                question=text,
                identity=reading.identity({**body, "prompt": text}, _DECISIVE),
                input_tokens=count,
                n=self.n,
                cap=(length or _DEFAULT_CAP) if cap is None else cap,
                stops=reading.stops(body.get("stop")),
                length=length,
            )
            self.choices += think(ask, call.seed, call.answers)
            self.echoed += [text if body.get("echo") is True else ""] * self.n
        self.chunks = call.controls.chunks
        self.streamed = body.get("stream") is True
        options = body.get("stream_options")
        self.include_usage = isinstance(options, dict) and options.get("include_usage") is True
        self.tally = Tally(input=sum(count for _, count in prompts), output=sum(c.output for c in self.choices))

    def reply(self, turn: Turn) -> Reply:
        bill = Bill(self.model.served, ENDPOINT, self.tally)
        head = {"id": f"cmpl-{turn.id.decode()}", "object": "text_completion", "created": turn.now}
        head |= {"model": self.model.served, "system_fingerprint": FINGERPRINT}
        usage = turn.form.told(openai_usage(self.tally))
        if self.streamed:
            steps = self._steps(head, usage, turn.form)
            return Reply(content_type=SSE, events=turn.pace.timed(steps, b"data: "), terminal=DONE, bill=bill)
        choices = [_choice(i, self.echoed[i] + c.text, c.finish) for i, c in enumerate(self.choices)]
        answer = {**head, "choices": choices, **({} if usage is None else {"usage": usage})}
        return jsonly(answer, delay=turn.pace.duration(self.tally.output), bill=bill)

    def _steps(self, head: dict[str, Any], usage: dict[str, Any] | None, form: UsageForm) -> list[tuple[int, bytes]]:
        made, steps = 0, []
        for index, choice in enumerate(self.choices):
            if self.echoed[index]:
                steps.append((made, _event(head, [_choice(index, self.echoed[index], None)])))
            for group in grouped(choice.pieces, self.chunks):
                made += len(group)
                steps.append((made, _event(head, [_choice(index, "".join(group), None)])))
            steps.append((made, _event(head, [_choice(index, "", choice.finish)])))
        if usage is not None and self.include_usage:
            final = (made, _event({**head, "usage": usage}, []))
            steps += [final] * (2 if form is UsageForm.REPEATED else 1)
        return steps


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _event(head: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({**head, "choices": choices}) + b"\n\n"
