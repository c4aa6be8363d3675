"""What no small answer may fail before its score counts: gates, never weights. Pure.

Rules: a gate speaks only of what was asked for: JSON where JSON was, tools that were offered. `gated` names the first
gate that an answer doesn't pass, of any of its choices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from policies.cascade.answers import Asked, Said
from policies.cascade.schema import fits

GATES: Final = ("empty", "cut_off", "filtered", "refusal", "not_json", "schema", "no_tool", "wrong_tool", "arguments")
_CANNOT: Final = r"(?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|am unable to|am not able to)"
_REFUSALS: Final = re.compile(
    r"(?i)\s*[*_#>\"' ]*(?:"
    r"(?:i(?:'|’)?m|i am) (?:really |very |so |truly )?sorry,? (?:but )?(?:i|that|this|as an)|"
    r"(?:sorry|unfortunately|apologies|my apologies),? (?:but )?i (?:am (?:not able|unable)|don(?:'|’)?t|"
    + _CANNOT
    + ")|"
    r"i " + _CANNOT + " (?:help|assist|answer|provide|comply|do|fulfil|discuss|determine)|"
    r"as an? (?:ai|artificial intelligence|language model|assistant)\b|"
    r"i do(?:n(?:'|’)?t| not) (?:know|have (?:access|enough information|the ability))|"
    r"(?:es )?tut mir leid|das kann ich (?:leider )?nicht|je suis désolé|je ne peux pas|lo siento|no puedo ayudar"
    r")"
)


def gated(asked: Asked, choices: Sequence[Said], must_call: bool = True) -> str | None:
    """The gate that the answer fails, or None. `must_call`: where tools are offered, one has to be called."""
    if not choices:
        return "empty"
    return next((why for one in choices if (why := _gate(asked, one, must_call)) is not None), None)


def gated_beginning(asked: Asked, choices: Sequence[Said]) -> str | None:
    """The gate that the beginning of an answer fails already."""
    for one in choices:
        if one.refused or one.end == "filter" or _REFUSALS.match(one.text):
            return "refusal" if one.end != "filter" else "filtered"
        if asked.json and one.text.lstrip() and one.text.lstrip()[0] not in "{[":
            return "not_json"
        if any(call.name and call.name not in asked.tools for call in one.calls):
            return "wrong_tool"
    return None


def _gate(asked: Asked, one: Said, must_call: bool) -> str | None:
    if one.end == "filter":
        return "filtered"
    if one.refused:
        return "refusal"
    if one.end == "length":
        return "cut_off"
    if one.calls:
        return _calls(asked, one)
    if not one.text.strip():
        return "empty"
    if must_call and asked.must_call:
        return "no_tool"
    if _REFUSALS.match(one.text):
        return "refusal"
    if asked.json:
        value = _parsed(one.text)
        if value is _NOTHING:
            return "not_json"
        if asked.schema is not None and not fits(value, asked.schema):
            return "schema"
    return None


def _calls(asked: Asked, one: Said) -> str | None:
    for call in one.calls:
        if call.name not in asked.tools:
            return "wrong_tool"
        value = _parsed(call.arguments or "{}")
        if not isinstance(value, dict) or not fits(value, asked.tools[call.name]):
            return "arguments"
    return None


_NOTHING: Final = object()


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return _NOTHING


def lenient(text: str) -> Any:
    """The JSON in a text, for judging: without the fence or the words around it; raises ValueError where none is."""
    found = _parsed(text)
    if found is not _NOTHING:
        return found
    fenced = re.search(r"```(?:json)?\s*(.*?)```", text, re.S)
    for part in (fenced[1],) if fenced else ():
        if (found := _parsed(part)) is not _NOTHING:
            return found
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    if starts and end > min(starts) and (found := _parsed(text[min(starts) : end + 1])) is not _NOTHING:
        return found
    raise ValueError("no JSON in it")
