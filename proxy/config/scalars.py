"""The units people write: durations, sizes, percentages, addresses, lists that may be a single value.

Rules: each type reads what people write and what JSON carries between our own processes, so that dumping and reading
gives the same value. Durations become seconds (float), sizes bytes (int), percentages fractions (float). A wrong
value is answered by an example of a right one.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from proxy.config.problems import nearest

_DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_DURATION_PART = r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)"
_DURATION = re.compile(rf"(?:{_DURATION_PART}\s*)+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")

FROM_FILE = {"from_file": True}  # the validation context of what people wrote

DURATION_PATTERN = r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*)+$"
SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*$"
PERCENT_PATTERN = r"^\s*\d+(\.\d+)?\s*%\s*$"


def wrong(message: str, hint: str = "") -> PydanticCustomError:
    """An error for a validator to raise, with what would be right as its hint."""
    return PydanticCustomError("weir", "{message}", {"message": message, "hint": hint})


def shown(value: object) -> str:
    """A value as an error may name it: short, and its kind where the value itself says little."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...") if isinstance(value, str) else text


def seconds(value: object) -> float:
    """`500ms`, `10s`, `5m`, `24h`, `30d`, `1h30m`, or a number of seconds.

    Raises `PydanticCustomError` naming the unit that was probably meant.
    """
    expected = "expected a duration such as 500ms, 30s, 5m, 24h or 1h30m"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _positive(float(value), expected)
    if not isinstance(value, str):
        raise wrong(f"{expected}, found {shown(value)}")
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise wrong(f"{expected}, found {shown(value)}", _negative_hint(text))
    parts = re.findall(_DURATION_PART, text)
    for number, unit in parts:
        if unit not in _DURATION_UNITS:
            meant = _meant_duration(unit)
            raise wrong(f"{unit!r} is no unit of time", f"write {number}{meant}" if meant else "ms, s, m, h or d")
    return float(sum(Decimal(number) * _DURATION_UNITS[unit] for number, unit in parts))


def size_in_bytes(value: object) -> int:
    """`32 MiB`, `256KiB`, `1.5 GB`, `512 B`, or a number of bytes.

    Raises `PydanticCustomError` naming the unit that was probably meant.
    """
    expected = "expected a size such as 32 MiB, 256 KiB or 5 MB"
    if isinstance(value, int) and not isinstance(value, bool):
        return int(_positive(value, expected))
    if not isinstance(value, str):
        raise wrong(f"{expected}, found {shown(value)}")
    text = value.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    match = _SIZE.fullmatch(text)
    if match is None:
        raise wrong(f"{expected}, found {shown(value)}", _negative_hint(text))
    number, unit = match.groups()
    if unit not in _SIZE_UNITS:
        raise wrong(f"{unit!r} is no unit of size", _meant_size(number, unit))
    size = Decimal(number) * _SIZE_UNITS[unit]
    if size != int(size):
        raise wrong(f"{shown(value)} is not a whole number of bytes")
    return int(size)


def fraction(value: object) -> float:
    """`5%` as 0.05, between 0% and 100%; a bare number is refused, because 0.5 could mean two things."""
    expected = "expected a percentage such as 5% or 0.5%"
    if not isinstance(value, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        raise wrong(f"{expected}, found {shown(value)}", f'write "{value}%"' if number else "")
    match = _PERCENT.fullmatch(value.strip())
    if match is None:
        number = _NUMBER.fullmatch(value.strip()) is not None
        raise wrong(f"{expected}, found {shown(value)}", f'write "{value.strip()}%"' if number else "")
    share = Decimal(match[1]) / 100
    if share > 1:
        raise wrong(f"{value.strip()} is more than 100%")
    return float(share)


def _share(value: object, info: ValidationInfo) -> float:
    """Between our own processes a share is a number; in a file it is a percentage."""
    if isinstance(value, float) and 0 <= value <= 1 and not (info.context or {}).get("from_file"):
        return value
    return fraction(value)


def percent(share: float) -> str:
    """0.05 as `5%`, exactly: `fraction(percent(x)) == x`."""
    return f"{Decimal(repr(share)) * 100:f}%"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and a port; port 0 takes any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as public."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(value: object) -> object:
    """`127.0.0.1:8787`, `[::1]:8787`, `localhost:8787`, `:8787` for every interface, or a port of 127.0.0.1."""
    if isinstance(value, Address):
        return value
    expected = "expected an address such as 127.0.0.1:8787"
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    match = re.fullmatch(r"(?:(\[[^\]]+\]|[^\[\]:/\s]*):)?(\d{1,5})", text)
    if match is None:
        hint = "leave out the scheme and the path" if "/" in text else "write the port after a colon"
        raise wrong(f"{expected}, found {shown(value)}", hint)
    if int(match[2]) > 65535:
        raise wrong(f"{match[2]} is no port", "ports end at 65535")
    host = "127.0.0.1" if match[1] is None else match[1].strip("[]") or "0.0.0.0"  # noqa: S104
    if ":" in host and not _is_address(host):
        raise wrong(f"{host!r} is no IPv6 address")
    return Address(host, int(match[2]))


def address_or_off(value: object) -> object:
    """An address, or `off`."""
    return None if value in ("off", None) else address(value)


def truth(value: object) -> bool:
    """`true` or `false`; the other words of old YAML are refused, since editors and JSON disagree about them."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    word = str(value).lower()
    hint = "write true" if word in ("yes", "on", "y", "1") else "write false" if word in ("no", "off", "n", "0") else ""
    raise wrong(f"expected true or false, found {shown(value)}", hint)


def listed(value: object) -> object:
    """A single value as a list of one; an empty list is refused, because it would quietly match nothing."""
    if isinstance(value, list | tuple):
        if not value:
            raise wrong("an empty list never matches", "name something, or leave the key out")
        return value
    if isinstance(value, dict):
        raise wrong("expected a value or a list of values, found a mapping")
    return [value]


@dataclass(frozen=True, slots=True)
class OneOrList:
    """Marks a list that may be written as a single value, also a mapping."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_one_or_list, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {"anyOf": [found["items"], found]}


def _one_or_list(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else [value]


def _positive(value: float, expected: str) -> float:
    if not 0 <= value < float("inf"):
        raise wrong(f"{expected}, found {value}", "it can't be negative" if value < 0 else "")
    return value


def _negative_hint(text: str) -> str:
    return "it can't be negative" if text.startswith("-") else ""


def _meant_duration(unit: str) -> str | None:
    words = {"sec": "s", "second": "s", "min": "m", "minute": "m", "hr": "h", "hour": "h", "day": "d", "milli": "ms"}
    word = unit.lower().removesuffix("s") if len(unit) > 2 else unit.lower()
    return words.get(word) or (word if word in _DURATION_UNITS else None) or words.get(nearest(word, words) or "")


def _meant_size(number: str, unit: str) -> str:
    known = {name.lower(): name for name in _SIZE_UNITS} | {"k": "KiB", "m": "MiB", "g": "GiB"}
    meant = known.get(unit.lower()) or nearest(unit, _SIZE_UNITS)
    return f"write {number} {meant}" if meant else "B, KiB, MiB, GiB, KB, MB or GB"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _or_number(title: str, pattern: str, examples: list[str], kind: str) -> WithJsonSchema:
    either = [{"type": kind, "minimum": 0}, {"type": "string", "pattern": pattern}]
    return WithJsonSchema({"title": title, "anyOf": either, "examples": examples})


Duration = Annotated[
    float, BeforeValidator(seconds), _or_number("duration", DURATION_PATTERN, ["500ms", "10s", "24h"], "number")
]
Size = Annotated[
    int, BeforeValidator(size_in_bytes), _or_number("size", SIZE_PATTERN, ["256 KiB", "32 MiB"], "integer")
]
Percent = Annotated[
    float,
    BeforeValidator(_share),
    PlainSerializer(percent, return_type=str, when_used="json"),
    WithJsonSchema({"title": "percentage", "type": "string", "pattern": PERCENT_PATTERN, "examples": ["5%", "0.5%"]}),
]
Truth = Annotated[bool, BeforeValidator(truth), WithJsonSchema({"type": "boolean"})]
_ADDRESS = {"type": ["string", "integer"]}
Bind = Annotated[
    Address,
    BeforeValidator(address),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"title": "address", **_ADDRESS, "examples": ["127.0.0.1:8787"]}),
]
OptionalBind = Annotated[
    Address | None,
    BeforeValidator(address_or_off),
    PlainSerializer(lambda value: str(value or "off"), return_type=str, when_used="json"),
    WithJsonSchema({"title": "address or off", **_ADDRESS, "examples": ["127.0.0.1:9090", "off"]}),
]
Version = Annotated[
    Literal[1],
    BeforeValidator(lambda value: 1 if value == "1" else value),
    WithJsonSchema({"const": 1}),
]
_ONE = {"type": ["string", "integer"]}
OneOrMore = WithJsonSchema({"title": "text or list", "anyOf": [_ONE, {"type": "array", "items": _ONE, "minItems": 1}]})
Names = Annotated[tuple[str, ...], BeforeValidator(listed), OneOrMore]
