"""What OpenAI's models are given for a request, as far as it is known, so that a tokenizer can count it.

Chat: 3 tokens a message, its role, its content, 1 and the name where there is one, and 3 at the end (measured: ten of
ten requests). Tools are shown to the model as the types of a TypeScript namespace, before or within the system message;
so rendered they are over-counted by 3 at most. Text of a response that is asked for as a message is framed like chat.

Whatever else a request has (images, calls of tools in its history, a schema for the answer) isn't known to the token:
`pieces_of` says None, and callers take the proven bound. Pure, but for the counting itself, which is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from proxy.body import Body

if TYPE_CHECKING:
    from proxy.tokens.estimator import Counter

_A_MESSAGE: Final = 3
_AT_THE_END: Final = 3
_TOOLS: Final = 9
_WITH_SYSTEM: Final = -4  # the tools share the frame of a system message that is there
_KNOWN: Final = frozenset(("role", "content", "name", "type"))
_TEXT_PARTS: Final = frozenset(("text", "input_text", "output_text"))
_SILENT: Final = ("response_format", "text", "prediction", "audio", "reasoning", "prompt", "previous_response_id")

Pieces = tuple[list[str], int]
"""Texts, each of which is counted by itself, and a number of tokens beside them."""


def counted(counter: Counter, encoding: str, endpoint: str, body: Body) -> Awaitable[int | None] | None:
    """The count, soon; None where it isn't known how the request is framed."""
    pieces = pieces_of(endpoint, body)
    return None if pieces is None else _sum(counter, encoding, *pieces)


async def _sum(counter: Counter, encoding: str, texts: list[str], beside: int) -> int | None:
    count = await counter.count(encoding, texts)
    return None if count is None else count + beside


def pieces_of(endpoint: str, body: Body) -> Pieces | None:
    """What is to be counted; None where the framing isn't known."""
    if any(body.get(name) is not None for name in _SILENT if name != "prompt" or endpoint == "responses"):
        return None
    match endpoint:
        case "chat.completions":
            return _chat(body.get("messages"), body.get("tools"), body.get("functions"))
        case "responses":
            given = body.get("input")
            asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
            told = body.get("instructions")
            first = [{"role": "system", "content": told}] if told is not None else []
            return _chat(first + asked, body.get("tools"), None) if isinstance(asked, list) else None
        case "embeddings":
            return _plain(body.get("input"))
        case "completions":
            return _plain(body.get("prompt"))
    return None


def _plain(given: Any) -> Pieces | None:
    if isinstance(given, str):
        return [given], 0
    if not isinstance(given, list):
        return None
    if all(isinstance(one, str) for one in given):
        return list(given), 0
    if all(isinstance(one, int) for one in given):
        return [], len(given)
    if all(isinstance(one, list) and all(isinstance(token, int) for token in one) for one in given):
        return [], sum(map(len, given))
    return None


def _chat(messages: Any, tools: Any, functions: Any) -> Pieces | None:
    if not isinstance(messages, list):
        return None
    texts: list[str] = []
    beside = _AT_THE_END
    for message in messages:
        found = _message(message)
        if found is None:
            return None
        texts += found
        beside += _A_MESSAGE + ("name" in message)
    if tools or functions:
        defined = _functions(tools, functions)
        if defined is None:
            return None
        has_system = any(message["role"] == "system" for message in messages)
        texts.append(rendered(defined))
        beside += _TOOLS + (_WITH_SYSTEM + 1 if has_system else 0)  # and a line's end after its text
    return texts, beside


def _message(message: Any) -> list[str] | None:
    if not isinstance(message, dict) or any(
        value is not None and name not in _KNOWN for name, value in message.items()
    ):
        return None
    role, content, name = message.get("role"), message.get("content"), message.get("name")
    if not isinstance(role, str) or role == "tool" or message.get("type", "message") != "message":
        return None
    texts = [role] if name is None else [role, str(name)]
    if isinstance(content, str):
        return [*texts, content]
    if not isinstance(content, list):
        return None
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return texts


def _functions(tools: Any, functions: Any) -> list[dict[str, Any]] | None:
    """The definitions, in either form: chat's nested one, or that of responses; None where there are other tools."""
    defined: list[Any] = list(functions) if isinstance(functions, list) else []
    for tool in tools or ():
        if not isinstance(tool, dict) or tool.get("type") != "function":
            return None
        defined.append(tool.get("function", tool))
    return defined if all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in defined) else None


# --- TypeScript


def rendered(functions: list[dict[str, Any]]) -> str:
    """Functions as the types of a namespace."""
    lines = ["namespace functions {", ""]
    for function in functions:
        if description := function.get("description"):
            lines.append(f"// {description}")
        properties = _properties(function.get("parameters"), 0)
        if properties:
            lines += [f"type {function['name']} = (_: {{", *properties, "}) => any;", ""]
        else:
            lines += [f"type {function['name']} = () => any;", ""]
    return "\n".join([*lines, "} // namespace functions"])


def _properties(schema: Any, indent: int) -> list[str]:
    if not isinstance(schema, dict) or not isinstance(properties := schema.get("properties"), dict):
        return []
    required = schema.get("required")
    lines = []
    for name, inner in properties.items():
        described = isinstance(inner, dict) and indent < 2
        if described and (description := inner.get("description")):
            lines.append(f"// {description}")
        optional = "" if isinstance(required, list) and name in required else "?"
        lines.append(f"{name}{optional}: {_type(inner, indent)},")
    return [" " * indent + line for line in lines]


def _type(schema: Any, indent: int) -> str:
    if not isinstance(schema, dict):
        return "any"
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)
    if isinstance(several := schema.get("anyOf"), list):
        return " | ".join(_type(one, indent) for one in several)
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(_type({**schema, "type": one}, indent) for one in kind)
    if kind == "array":
        return f"{_type(schema['items'], indent)}[]" if "items" in schema else "any[]"
    if kind == "object":
        return "\n".join(["{", *_properties(schema, indent + 2), "}"])
    return {"integer": "number", "null": "null"}.get(str(kind), str(kind or "any"))
