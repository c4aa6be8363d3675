"""Turns pydantic's errors into problems: our words, the place in the file, the nearest valid name.

Rules: pure. A value is only shown where the file shows it: one that came from the environment appears as `${NAME}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from proxy.config.problems import Location, nearest, suggestion
from proxy.config.scalars import shown
from proxy.config.source import Source
from proxy.config.strict import documentation

_KINDS = {
    "dict_type": "a mapping (lines of `key: value`)",
    "model_type": "a mapping (lines of `key: value`)",
    "model_attributes_type": "a mapping (lines of `key: value`)",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "path_type": "a path",
    "date_type": "a day such as 2027-12-31",
    "date_parsing": "a day such as 2027-12-31",
    "date_from_datetime_parsing": "a day such as 2027-12-31",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def note(
    error: ValidationError,
    source: Source,
    model: type[BaseModel],
    prefix: Location = (),
    also: Iterable[str] = (),
) -> None:
    """Report every error of a validation of what stands at `prefix`; `also` are further keys that are valid there.

    A required key that was misspelt is one mistake: where the unknown key is told to be it, it isn't missing as well.
    """
    meant: set[Location] = set()
    for found in sorted(error.errors(include_url=False), key=lambda found: found["type"] == "missing"):
        inner = tuple(part for part in found["loc"] if part != "[key]")
        where = _where(found["type"], source, prefix, inner)
        if _said_already(found, where, source):
            continue
        if found["type"] == "extra_forbidden":
            names = {*field_names(model, inner[:-1]), *(also if len(inner) == 1 else ())}
            meant.add((*where[:-1], nearest(str(inner[-1]), names) or ""))
            source.report(where, "unknown key", suggestion(str(inner[-1]), names), at_key=True)
        elif found["type"] == "missing":
            if where not in meant:
                source.report(where, "is missing", described(model, inner))
        else:
            message, hint = _words(found["type"], found.get("ctx") or {}, found["msg"], _found(source, where, found))
            if where in source.raw:  # also where it is too short to be told from other words
                seen, raw = shown(found["input"]), repr(source.raw[where])
                message, hint = message.replace(seen, raw), hint.replace(seen, raw)
            source.report(where, message, hint, at_key="[key]" in found["loc"])


def field_names(model: type[BaseModel], location: Location) -> set[str]:
    """The keys that a mapping at `location` may have."""
    return {name for found in _models(_inside(model, location)) for name in _written_names(found)}


def described(model: type[BaseModel], location: Location) -> str:
    """The first sentence of the documentation of the field at `location`."""
    for found in _models(_inside(model, location[:-1])):
        documented = documentation(found)
        for name, field in found.model_fields.items():
            if location[-1] in (name, field.alias) and name in documented:
                return re.split(r"(?<=[.:])\s", " ".join(documented[name].split()))[0].rstrip(".:")
    return ""


def _where(kind: str, source: Source, prefix: Location, inner: Location) -> Location:
    """Parts that the file doesn't hold (a short form, a union's member) are left out; the last one stays if it names
    what is missing."""
    if not prefix and inner and inner[0] in source.elsewhere:
        return inner
    settled = source.settle((*prefix, *inner))
    return (*source.settle((*prefix, *inner[:-1])), inner[-1]) if kind == "missing" and inner else settled


def _said_already(found: Any, where: Location, source: Source) -> bool:
    """A key without a value is reported as that; a list isn't too short because its entries are wrong."""
    if found["type"] == "missing":
        return where in source.keys
    return bool(found["type"] == "too_short" and len(found["input"]) >= found["ctx"]["min_length"])


def _found(source: Source, where: Location, error: Any) -> str:
    return repr(source.raw[where]) if where in source.raw else shown(error["input"])


def _words(kind: str, details: dict[str, Any], said: str, found: str) -> tuple[str, str]:
    if kind == "weir":
        return str(details["message"]), str(details["hint"])
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}, found {found}", _kind_hint(kind, found)
    if kind in ("literal_error", "enum"):
        return _choice(str(details["expected"]), found)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"must be {words} {_number(details[key])}, found {found}", ""
    if kind in ("too_short", "too_long"):
        bound = details.get("min_length", details.get("max_length"))
        word = "at least" if kind == "too_short" else "at most"
        return f"needs {word} {bound} {'entry' if bound == 1 else 'entries'}", ""
    if kind == "value_error":
        return str(details.get("error", said)), ""
    return said[:1].lower() + said[1:], ""


def _choice(expected: str, found: str) -> tuple[str, str]:
    names = re.findall(r"'([^']*)'", expected)
    close = nearest(found.strip("'"), names) if names else None
    return f"expected {expected.replace(chr(39), '')}, found {found}", f"did you mean {close}?" if close else ""


def _kind_hint(kind: str, found: str) -> str:
    if kind.startswith("bool"):
        word = found.strip("'").lower()
        return "write true" if word in ("yes", "on") else "write false" if word in ("no", "off") else ""
    if kind == "string_type" and found[:1] not in ("a", "n"):
        return f'put it in quotes: "{found}"'
    if kind in ("list_type", "tuple_type", "set_type"):
        return "each entry on a line that begins with -"
    return ""


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _written_names(model: type[BaseModel]) -> set[str]:
    names = {field.alias or name for name, field in model.model_fields.items()}
    if "deployments" in names:  # the short form of a model
        names |= {"upstream", "model", "weight"}
    return names


def _inside(model: type[BaseModel], location: Location) -> list[Any]:
    """The annotations at a location; parts that lead nowhere (a union's member) are skipped."""
    current: list[Any] = [model]
    for part in location:
        following = [child for annotation in current for child in _children(annotation, part)]
        current = following or current
    return current


def _children(annotation: Any, part: str | int) -> list[Any]:
    found: list[Any] = []
    for model in _models([annotation]):
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                found.append(field.annotation)
    return found


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    """The models in annotations, through unions, containers and `Annotated`."""
    found: list[type[BaseModel]] = []
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        else:
            found += _models(argument for argument in get_args(annotation) if argument is not Ellipsis)
    return found
