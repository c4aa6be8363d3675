"""Request bodies that are understood: whole JSON objects, kept as the bytes they came in.

Rules:
1. A body is scanned once. It is parsed whole (orjson, strict), unless it is large and made of few strings (an image):
   then it is skipped through, and only the top-level fields that somebody asks for are parsed, so that 5 MB cost a
   few searches.
2. A change splices bytes: what the proxy doesn't understand reaches the upstream as the client wrote it.
3. Where two readers could understand two things (a field given twice, nesting without end, numbers that no double
   holds), the body is refused: the upstream must not act on another model or another cap than the one that was
   priced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import orjson

from proxy.errors import WeirError

WHOLE_BYTES: Final = 256 * 1024
BYTES_A_QUOTE: Final = 100  # a large body with fewer quotes is skipped through: by msgspec (0.8 ns a byte), or,
FEW_A_QUOTE: Final = 400  # with fewer still, from quote to quote (0.3 µs each)
NESTING: Final = 64
_ANY_DEPTH: Final = 1 << 30  # of a body that was let in: its depth was looked at

# The fields that the proxy or its policies act on. Given twice, they are refused (case 25 of the abuse table).
ACTED_ON: Final = (
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "service_tier",
    "tools",
    "store",
    "background",
    "previous_response_id",
)
_ACTED_ON: Final = frozenset(ACTED_ON)
_TOKENS: Final = {name: b'"%b"' % name.encode() for name in ACTED_ON}
_SAMPLE: Final = 32 * 1024
_COPIED: Final = 4 * 1024
_values: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_SCALAR: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?|true|false|null")
_MISSING: Final = object()

Span = tuple[int, int]


class Body:
    """A JSON object as bytes. `raw` is what goes to the upstream; `get` reads a top-level field.

    `memo` is for what policies work out of it alone.
    """

    __slots__ = ("_fields", "_plain", "_spans", "memo", "raw")

    def __init__(self, raw: bytes, fields: dict[str, Any], spans: dict[str, Span] | None, plain: bool) -> None:
        self.raw = raw
        self._fields = fields
        self._spans = spans
        self._plain = plain  # every top-level field is in `fields`
        self.memo: dict[Any, Any] | None = None

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"<Body {len(self.raw)} bytes>"  # never its content

    def get(self, name: str, default: Any = None) -> Any:
        """The parsed value of a top-level field."""
        if self._plain:
            return self._fields.get(name, default)
        value = self._fields.get(name, _MISSING)
        if value is not _MISSING:
            return value
        if self._spans is None or name not in self._spans:
            return default
        start, end = self._spans[name]
        value = self._fields[name] = _parse(self.raw[start:end])
        return value

    @property
    def parsed(self) -> bool:
        """Whether it was parsed whole, so that any field is at hand."""
        return self._plain

    @property
    def getter(self) -> Callable[[str], Any]:
        """`get` without a default, for whoever asks for several fields."""
        return self._fields.get if self._plain else self.get

    def __contains__(self, name: str) -> bool:
        return name in self._fields or (self._spans is not None and name in self._spans)

    @property
    def fields(self) -> dict[str, Any]:
        """All top-level fields, parsed. Costly for a large body."""
        if not self._plain and self._spans is not None:
            for name in self._spans:
                self.get(name)
        return self._fields

    def span(self, name: str) -> Span | None:
        """Where a top-level field's value stands in `raw`."""
        if self._spans is None:
            raw, token = self.raw, orjson.dumps(name)
            # The name stands once, and can't be spelled otherwise: then that is the field, not a name within it.
            if name in self._fields and raw.count(token) == 1 and not _respelled(raw, name):
                return _value_after(raw, raw.index(token) + len(token), _ANY_DEPTH)
            self._spans = dict(_members(raw, _ANY_DEPTH))
        return self._spans.get(name)

    def using(self, changes: dict[str, Any]) -> Body:
        """A copy with top-level fields set, by splicing; all else keeps its bytes. A value of None is JSON null."""
        raw = self.raw
        splices: list[tuple[int, int, bytes]] = []
        added: list[bytes] = []
        for name, value in changes.items():
            encoded = orjson.dumps(value)
            span = self.span(name) if name in self else None
            if span is not None:
                splices.append((*span, encoded))
            else:
                added.append(b"%b:%b," % (orjson.dumps(name), encoded))
        for start, end, encoded in sorted(splices, reverse=True):
            raw = raw[:start] + encoded + raw[end:]
        if added:
            opening = raw.index(b"{") + 1
            new = b"".join(added)
            if _SPACE.match(raw, opening).end() == raw.rindex(b"}"):  # type: ignore[union-attr]  # it matches everything
                new = new[:-1]  # the object was empty
            raw = raw[:opening] + new + raw[opening:]
        if self._plain:
            return Body(raw, {**self._fields, **changes}, None, True)
        return scan(raw, _ANY_DEPTH)


def scan(raw: bytes, nesting: int = NESTING) -> Body:
    """Reads a request's body. Raises WeirError 400 if it isn't one JSON object, or is one that can be read two ways."""
    if len(raw) > WHOLE_BYTES and (apart := _bytes_a_quote(raw)) > BYTES_A_QUOTE:
        spans = _compact(raw, nesting) if apart < FEW_A_QUOTE else None
        return Body(raw, {}, dict(_members(raw, nesting)) if spans is None else spans, False)
    fields = _parse(raw)
    if type(fields) is not dict:
        raise _invalid("it must be a JSON object")
    if _brackets(raw, nesting) > nesting and _deeper(fields, nesting):
        raise _invalid(f"it is nested deeper than {nesting} levels")
    if _each_once(raw):
        return Body(raw, fields, None, True)
    # A name that stands twice in the text may be a field given twice; with escapes it may be spelled otherwise.
    for name in _ACTED_ON & fields.keys():
        if raw.count(_TOKENS[name]) != 1:
            return Body(raw, fields, dict(_members(raw, nesting)), True)
    if b"\\" in raw and b"\\u" in raw:
        return Body(raw, fields, dict(_members(raw, nesting)), True)
    return Body(raw, fields, None, True)


def _bytes_a_quote(raw: bytes) -> float:
    """How far apart the quotes of a large text are: judged by its middle, since a wrong guess only costs time."""
    middle = len(raw) // 2
    return _SAMPLE / (raw.count(b'"', middle, middle + _SAMPLE) or 1)


def _compact(raw: bytes, nesting: int) -> dict[str, Span] | None:
    """Where the fields of an object stand, by their order and lengths alone; None unless it is written without spaces
    (`_each_once` says why that is proof) and can't be nested too deep.
    """
    if _brackets(raw, nesting) > nesting:
        return None
    try:
        values = _values(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    spans: dict[str, Span] = {}
    at = 1
    for name, value in values.items():
        start = at + len(name) + 3
        end = start + len(value)
        spans[name] = start, end
        at = end + 1
    return spans if at == len(raw) else None


def _brackets(raw: bytes, most: int) -> int:
    """How many opening brackets there are, as far as it matters whether there are more than `most`.

    `replace` and `find` look for a byte by memchr, `count` and `split` look at each; `replace` copies.
    """
    if len(raw) < _COPIED:
        return 2 * len(raw) - len(raw.replace(b"{", b"")) - len(raw.replace(b"[", b""))
    found = 0
    for mark in (b"{", b"["):
        at = raw.find(mark)
        while at >= 0 and found <= most:
            found += 1
            at = raw.find(mark, at + 1)
    return found


def _each_once(raw: bytes) -> bool:
    """Whether an object written without spaces has no byte but those of its fields: then none was given twice.

    Cheaper for a long text than looking for each name. False says nothing: a space counts too.
    """
    try:
        values = _values(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    count = len(values)
    size = sum(map(len, values)) + sum(map(len, values.values())) + 4 * count + 1  # quotes, colons, commas, braces
    return len(raw) == size


def _respelled(raw: bytes, name: str) -> bool:
    return "/" in name or (b"\\" in raw and b"\\u" in raw)


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"{error.msg} at line {error.lineno}, column {error.colno}") from None


def _invalid(why: str) -> WeirError:
    return WeirError(400, f"We could not parse the JSON body of your request: {why}.", code="invalid_json")


def _members(raw: bytes, nesting: int = NESTING) -> Iterator[tuple[str, Span]]:
    """The top-level fields of an object and where their values stand. Refuses acted-on names that are given twice."""
    seen: set[str] = set()
    at = _space(raw, 0)
    if raw[at : at + 1] != b"{":
        raise _invalid("it must be a JSON object")
    at = _space(raw, at + 1)
    if raw[at : at + 1] == b"}":
        return _trailing(raw, at + 1)
    while True:
        if raw[at : at + 1] != b'"':
            raise _invalid("a field's name was expected")
        end = _string_end(raw, at + 1)
        name = str(_parse(raw[at : end + 1]))
        if name in seen and name in _ACTED_ON:
            raise WeirError(400, f"The field `{name}` is given twice.", code="duplicate_field", param=name)
        seen.add(name)
        value = _value_after(raw, end + 1, nesting)
        yield name, value
        at = _space(raw, value[1])
        mark = raw[at : at + 1]
        if mark == b"}":
            return _trailing(raw, at + 1)
        if mark != b",":
            raise _invalid("a comma or the end of the object was expected")
        at = _space(raw, at + 1)


def _trailing(raw: bytes, at: int) -> None:
    if _space(raw, at) != len(raw):
        raise _invalid("something follows the object")


def _space(raw: bytes, at: int) -> int:
    return _SPACE.match(raw, at).end()  # type: ignore[union-attr]  # it matches everywhere


def _value_after(raw: bytes, at: int, nesting: int = NESTING) -> Span:
    """The value that follows a name's closing quote, as a span."""
    at = _space(raw, at)
    if raw[at : at + 1] != b":":
        raise _invalid("a colon was expected after a field's name")
    at = _space(raw, at + 1)
    mark = raw[at : at + 1]
    if mark == b'"':
        return at, _string_end(raw, at + 1) + 1
    if mark in (b"{", b"["):
        return at, _nested_end(raw, at, nesting)
    scalar = _SCALAR.match(raw, at)
    if scalar is None:
        raise _invalid("a value was expected")
    return scalar.span()


def _string_end(raw: bytes, at: int) -> int:
    """The index of the quote that closes the string whose content begins at `at`."""
    while True:
        quote = raw.find(b'"', at)
        if quote < 0:
            raise _invalid("a string doesn't end")
        before = quote - 1
        while before >= at and raw[before] == 0x5C:
            before -= 1
        if (quote - before) % 2:  # an even number of backslashes
            return quote
        at = quote + 1


def _nested_end(raw: bytes, at: int, nesting: int) -> int:
    """The index after the bracket that closes the one at `at`."""
    open_brackets: list[int] = []
    while True:
        quote = raw.find(b'"', at)
        for bracket in _BRACKET.finditer(raw, at, quote if quote >= 0 else len(raw)):
            mark = raw[bracket.start()]
            if mark in b"{[":
                open_brackets.append(mark + 2)  # the closing bracket stands two after the opening one, for both kinds
                if len(open_brackets) >= nesting:
                    raise _invalid(f"it is nested deeper than {nesting} levels")
            elif not open_brackets or open_brackets.pop() != mark:
                raise _invalid("its brackets don't match")
            if not open_brackets:
                return bracket.end()
        if quote < 0:
            raise _invalid("a bracket isn't closed")
        at = _string_end(raw, quote + 1) + 1


def _deeper(fields: dict[str, Any], nesting: int) -> bool:
    """Whether anything in it is nested deeper: looked at level by level, since recursion has a price and an end."""
    level: list[Any] = [fields]
    for _ in range(nesting):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True
