"""Which answers may be kept: whole ones, that nothing but the request and the model brought about. Pure.

Rules:
1. Not kept: what was cut short, filtered or paused, errors, and refusals unless the policy says so. An end that isn't
   known is no whole end.
2. An answer that ended because it was long enough is whole if the length was the client's wish or the model's own end;
   not if the proxy set it (a budget that shrinks answers).
"""

from __future__ import annotations

from typing import Any, Final

_WHOLE: Final = frozenset(
    ("stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use", "eos", "eos_token")
)
_LONG: Final = frozenset(("length", "max_tokens"))
_REFUSED: Final = "refusal"


def keepable(endpoint: str, answer: Any, *, long_enough: bool, refusals: bool) -> bool:
    """Whether the JSON of an answer may be kept. `long_enough`: no cap but the client's own was set."""
    if not isinstance(answer, dict) or answer.get("error") is not None:
        return False
    ended = _WHOLE | _LONG if long_enough else _WHOLE
    if endpoint in ("chat.completions", "completions"):
        return _choices(answer.get("choices"), ended, refusals)
    if endpoint == "messages":
        how = answer.get("stop_reason")
        return how in ended or (refusals and how == _REFUSED)
    if endpoint == "responses":
        return _response(answer, long_enough, refusals)
    return bool(answer.get("data") or answer.get("results"))


def _choices(choices: Any, ended: frozenset[str], refusals: bool) -> bool:
    if not isinstance(choices, list) or not choices:
        return False
    return all(
        isinstance(choice, dict) and choice.get("finish_reason") in ended and (refusals or not _refused(choice))
        for choice in choices
    )


def _refused(choice: dict[str, Any]) -> bool:
    message = choice.get("message")
    return isinstance(message, dict) and bool(message.get("refusal"))


def _response(answer: dict[str, Any], long_enough: bool, refusals: bool) -> bool:
    status, details = answer.get("status"), answer.get("incomplete_details")
    why = details.get("reason") if isinstance(details, dict) else None
    if status != "completed" and not (status == "incomplete" and why == "max_output_tokens" and long_enough):
        return False
    output = answer.get("output")
    if not isinstance(output, list):
        return False
    return refusals or not any(_refuses(item) for item in output)


def _refuses(item: Any) -> bool:
    parts = item.get("content") if isinstance(item, dict) else None
    return isinstance(parts, list) and any(isinstance(part, dict) and part.get("type") == _REFUSED for part in parts)
