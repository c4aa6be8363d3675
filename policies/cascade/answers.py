"""What was asked, and what an answer says, whatever its dialect. Pure.

`Asked` is read of a request once; `Said` is one choice of an answer, read of a whole body (`said`) or gathered from a
stream's events (`Gathered`); `Answer` is all choices, with what else is known of them. Nothing here raises for what an
upstream or a client may send.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import orjson

from proxy.body import Body
from proxy.exchange import Request

ENDPOINTS: Final = {"chat.completions": "chat", "messages": "anthropic", "responses": "responses"}
_ENDS: Final = {
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "content_filter": "filter",
    "refusal": "filter",
    "model_context_window_exceeded": "length",
}


class Call(msgspec.Struct, frozen=True):
    """A call of a tool: its name, and its arguments as the model wrote them."""

    name: str
    arguments: str


class Said(msgspec.Struct, frozen=True):
    """One choice. `end`: stop, length, filter, or None where nobody said; `refused`: the API itself said so."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    end: str | None = None
    refused: bool = False
    logprobs: tuple[float, ...] | None = None


class Answer(msgspec.Struct, frozen=True):
    """An answer, what it cost, and the version of the model that gave it."""

    said: tuple[Said, ...]
    nanodollars: int | None = None  # with its check
    served: str = ""
    early: tuple[Said, ...] | None = None  # as far as it had come when time was up, where its beginning hadn't by then
    doubt: float | None = None  # what its check found (`checking`); None where it wasn't checked yet


class Asked(msgspec.Struct, frozen=True):
    """What of a request decides how its answer is looked at."""

    dialect: str
    stream: bool
    n: int
    text: str  # all that the answer depends on, the last turn last
    question: str  # the last turn
    template: str  # the system prompt
    turns: int
    tools: dict[str, Any]  # schemas by name
    must_call: bool  # a call is wanted now, since tools are offered and no result of one was just given
    json: bool
    schema: Any = None
    own_logprobs: bool = False


def asked(request: Request) -> Asked | None:
    """What a request asks for; None where that isn't understood."""
    dialect, body = ENDPOINTS.get(request.endpoint.name), request.body
    if dialect is None or not isinstance(body, Body):
        return None
    turns = body.get("input") if dialect == "responses" else body.get("messages")
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    system = [
        *(words(body.get(name)) for name in ("system", "instructions")),
        *(words(turn.get("content")) for turn in turns if turn.get("role") in ("system", "developer")),
    ]
    template = "\n".join(text for text in system if text)
    spoken = [words(turn.get("content")) for turn in turns if turn.get("role") not in ("system", "developer")]
    tools, choice, last = _tools(body.get("tools")), body.get("tool_choice"), turns[-1]
    none = choice == "none" or (isinstance(choice, dict) and choice.get("type") == "none")
    form, schema = _form(body)
    n = body.get("n")
    return Asked(
        dialect,
        body.get("stream") is True,
        n if isinstance(n, int) and n > 0 else 1,
        "\n".join([template, *spoken]),
        spoken[-1] if spoken else "",
        template,
        len(spoken),
        tools,
        bool(tools) and not none and not _gives_result(last),
        form,
        schema,
        body.get("logprobs") is True,
    )


def words(content: Any) -> str:
    """The text of a turn's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join([text for text in texts if isinstance(text, str)])


def _gives_result(turn: dict[str, Any]) -> bool:
    if turn.get("role") in ("tool", "function") or turn.get("type") == "function_call_output":
        return True
    content = turn.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in content
    )


def _tools(offered: Any) -> dict[str, Any]:
    """The client's own tools; those of the provider run upstream and aren't called by name."""
    found = {}
    for tool in offered if isinstance(offered, list) else ():
        if isinstance(tool, dict):
            told = tool.get("function") if isinstance(tool.get("function"), dict) else tool
            if isinstance(told, dict) and isinstance(name := told.get("name"), str):
                found[name] = told.get("parameters", told.get("input_schema"))
    return found


def _form(body: Body) -> tuple[bool, Any]:
    """Whether JSON is asked for, and of which schema."""
    form = body.get("response_format")
    if form is None and isinstance(text := body.get("text"), dict):
        form = text.get("format")
    if not isinstance(form, dict) or form.get("type") not in ("json_object", "json_schema"):
        return False, None
    inner = form.get("json_schema")
    return True, (inner if isinstance(inner, dict) else form).get("schema")


# --- whole answers


def said(dialect: str, body: bytes) -> tuple[Said, ...] | None:
    """The choices of a whole answer; None where it isn't one."""
    try:
        told = orjson.loads(body)
    except ValueError:
        return None
    return _said(dialect, told) if isinstance(told, dict) else None


def _said(dialect: str, told: dict[str, Any]) -> tuple[Said, ...] | None:
    if dialect == "anthropic":
        return _of_message(told)
    if dialect == "responses":
        return _of_response(told)
    choices = told.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    return tuple([_of_choice(choice) for choice in choices if isinstance(choice, dict)]) or None


def _of_choice(choice: dict[str, Any]) -> Said:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    calls = message.get("tool_calls")
    found = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    text, refusal = message.get("content"), message.get("refusal")
    return Said(
        text if isinstance(text, str) else words(text),
        tuple([_call(call.get("name"), call.get("arguments")) for call in found if isinstance(call, dict)]),
        _end(choice.get("finish_reason")),
        isinstance(refusal, str) and bool(refusal),
        _logprobs(choice.get("logprobs")),
    )


def _of_message(told: dict[str, Any]) -> tuple[Said, ...] | None:
    parts = told.get("content")
    if not isinstance(parts, list):
        return None
    calls = [part for part in parts if isinstance(part, dict) and part.get("type") == "tool_use"]
    made = tuple([_call(call.get("name"), call.get("input")) for call in calls])
    return (Said(words(parts), made, _end(told.get("stop_reason")), told.get("stop_reason") == "refusal"),)


def _of_response(told: dict[str, Any]) -> tuple[Said, ...] | None:
    output = told.get("output")
    if not isinstance(output, list):
        return None
    items = [item for item in output if isinstance(item, dict)]
    calls = [_call(item.get("name"), item.get("arguments")) for item in items if item.get("type") == "function_call"]
    parts = [part for item in items if item.get("type") == "message" for part in _list(item.get("content"))]
    refused = any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts)
    why = told.get("incomplete_details")
    end = _end(why.get("reason")) if isinstance(why, dict) else "stop" if told.get("status") == "completed" else None
    return (Said(words(parts), tuple(calls), end, refused),)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _call(name: Any, arguments: Any) -> Call:
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return Call(name if isinstance(name, str) else "", text)


def _end(reason: Any) -> str | None:
    return None if reason is None else _ENDS.get(str(reason), "stop")


def _logprobs(told: Any) -> tuple[float, ...] | None:
    tokens = told.get("content") if isinstance(told, dict) else None
    if not isinstance(tokens, list):
        return None
    found = [token.get("logprob") for token in tokens if isinstance(token, dict)]
    return tuple([float(one) for one in found if isinstance(one, (int, float))])


# --- streams


class _Growing:
    """One choice of a stream."""

    __slots__ = ("calls", "end", "logprobs", "refused", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.calls: dict[int, list[str]] = {}  # name, then pieces of the arguments
        self.end: str | None = None
        self.refused = False
        self.logprobs: list[float] | None = None

    def call(self, at: int, name: Any, piece: Any) -> None:
        call = self.calls.setdefault(at, [""])
        if isinstance(name, str) and name:
            call[0] = name
        if isinstance(piece, str):
            call.append(piece)

    def said(self) -> Said:
        calls = tuple([Call(name, "".join(pieces)) for name, *pieces in self.calls.values()])
        logprobs = None if self.logprobs is None else tuple(self.logprobs)
        return Said("".join(self.texts), calls, self.end, self.refused, logprobs)


class Gathered:
    """The choices of a stream as far as they have come. `pieces` counts what content came."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._choices: dict[int, _Growing] = {}
        self._whole: tuple[Said, ...] | None = None
        self.pieces = 0

    def event(self, payload: bytes) -> None:
        """Takes in an event's data."""
        try:
            told = orjson.loads(payload)
        except ValueError:
            return  # [DONE]
        if not isinstance(told, dict):
            return
        if self._dialect == "chat":
            for choice in _list(told.get("choices")):
                if isinstance(choice, dict):
                    self._delta(choice)
        elif self._dialect == "anthropic":
            self._block(told)
        else:
            self._item(told)

    def _of(self, at: Any) -> _Growing:
        return self._choices.setdefault(at if isinstance(at, int) else 0, _Growing())

    def _delta(self, choice: dict[str, Any]) -> None:
        one, delta = self._of(choice.get("index")), choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        if isinstance(text := delta.get("content"), str) and text:
            one.texts.append(text)
            self.pieces += 1
        one.refused = one.refused or bool(delta.get("refusal"))
        for call in _list(delta.get("tool_calls")):
            if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
                at = call.get("index")
                one.call(at if isinstance(at, int) else 0, function.get("name"), function.get("arguments"))
                self.pieces += 1
        if (found := _logprobs(choice.get("logprobs"))) is not None:
            one.logprobs = [*(one.logprobs or ()), *found]
        one.end = _end(choice.get("finish_reason")) or one.end

    def _block(self, told: dict[str, Any]) -> None:
        one, at = self._of(0), told.get("index")
        at = at if isinstance(at, int) else 0
        block, delta = told.get("content_block"), told.get("delta")
        if isinstance(block, dict) and block.get("type") == "tool_use":
            one.call(at, block.get("name"), "")
        if isinstance(delta, dict):
            if isinstance(text := delta.get("text"), str):
                one.texts.append(text)
                self.pieces += 1
            if isinstance(piece := delta.get("partial_json"), str):
                one.call(at, None, piece)
                self.pieces += 1
            one.end = _end(delta.get("stop_reason")) or one.end
            one.refused = one.refused or delta.get("stop_reason") == "refusal"

    def _item(self, told: dict[str, Any]) -> None:
        kind, one = told.get("type"), self._of(0)
        if kind == "response.output_text.delta" and isinstance(text := told.get("delta"), str):
            one.texts.append(text)
            self.pieces += 1
        elif kind == "response.refusal.delta":
            one.refused = True
        elif kind in ("response.completed", "response.incomplete") and isinstance(told.get("response"), dict):
            self._whole = _of_response(told["response"])

    def said(self) -> tuple[Said, ...]:
        """What has come."""
        if self._whole is not None:
            return self._whole
        return tuple([self._choices[at].said() for at in sorted(self._choices)])
