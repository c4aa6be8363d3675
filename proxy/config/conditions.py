"""When a policy applies: `match` and `unless`, compiled once to a plain function; and stable draws for `rollout` and
`holdout`.

Rules: all named conditions must hold; a condition with several values holds when one of them does. Compiled
conditions are pure: they read `Facts`, do no I/O and keep no state. No conditions compile to None, so that they cost
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from hashlib import blake2b
from typing import Annotated, Protocol

from pydantic import AfterValidator, BeforeValidator

from proxy.config.globs import globs
from proxy.config.problems import nearest
from proxy.config.scalars import Names, OneOrMore, Truth, listed, size_in_bytes, wrong
from proxy.config.strict import Strict
from proxy.language import LANGUAGES, NAMES

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_COMPARISON = re.compile(r"(<=|>=|<|>)\s*(\S.*)")
_RANGE = re.compile(r"(\d[^-]*?)\s*-\s*(\d.*)")
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)\s*([km]?)", re.IGNORECASE)
_HOURS = re.compile(r"(?:([a-z]{3})(?:-([a-z]{3}))?)?\s*(?:(\d\d?):(\d\d)-(\d\d?):(\d\d))?", re.IGNORECASE)


class Facts(Protocol):
    """What conditions may ask about an exchange. `time()` is aware; it is only called where a condition names a
    time."""

    @property
    def team(self) -> str | None: ...
    @property
    def project(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def model(self) -> str | None: ...
    @property
    def served_model(self) -> str | None: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def tools(self) -> bool: ...
    @property
    def stream(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def language(self) -> str | None: ...
    @property
    def time(self) -> Callable[[], datetime]: ...


Predicate = Callable[[Facts], bool]


def size_predicate(text: str) -> Callable[[int], bool]:
    """`> 20 KiB`, `<= 1 MiB`, or `4 KiB - 20 KiB` (both ends included)."""
    return _amount_predicate(text, size_in_bytes, "> 20 KiB or 4 KiB - 20 KiB")


def tokens_predicate(text: str) -> Callable[[int], bool]:
    """`> 100k`, `<= 2000`, or `4k - 32k` (both ends included)."""
    return _amount_predicate(text, tokens_of, "> 100k or 4k - 32k")


def tokens_of(text: str) -> int:
    """`100k`, `1.5M` or `2000` tokens: thousands and millions, not powers of two."""
    match = _TOKENS.fullmatch(text.strip())
    if match is None:
        raise wrong(f"{text.strip()!r} is no number of tokens", "write 2000, 100k or 1M")
    return round(float(match[1]) * {"": 1, "k": 1000, "m": 1_000_000}[match[2].lower()])


def _amount_predicate(text: str, amount: Callable[[str], int], example: str) -> Callable[[int], bool]:
    if comparison := _COMPARISON.fullmatch(text.strip()):
        limit = amount(comparison[2])
        return {
            "<": lambda size: size < limit,
            "<=": lambda size: size <= limit,
            ">": lambda size: size > limit,
            ">=": lambda size: size >= limit,
        }[comparison[1]]
    if between := _RANGE.fullmatch(text.strip()):
        low, high = amount(between[1]), amount(between[2])
        if low > high:
            raise wrong(f"{text!r} never holds", f"write {between[2]} - {between[1]}")
        return lambda size: low <= size <= high
    raise wrong(f"expected a comparison such as {example}, found {text!r}", _size_hint(text))


def time_predicate(text: str) -> Callable[[datetime], bool]:
    """`22:00-06:00`, `mon-fri 09:00-17:00` or `sat-sun`. The end is excluded; over midnight it belongs to the day it
    began."""
    match = _HOURS.fullmatch(text.strip())
    if match is None or not text.strip():
        raise wrong(f"expected hours such as 22:00-06:00 or mon-fri 09:00-17:00, found {text!r}")
    days = _days(match[1], match[2])
    begin, end = (_minute(match[3], match[4]), _minute(match[5], match[6])) if match[3] else (0, 24 * 60)
    if begin == end:
        raise wrong(f"{text!r} never holds", "the end is excluded; write 00:00-24:00 for the whole day")

    def holds(moment: datetime) -> bool:
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if begin < end:
            return begin <= minute < end and day in days
        return day in days if minute >= begin else minute < end and (day - 1) % 7 in days

    return holds


def _checked_size(text: str) -> str:
    size_predicate(text)
    return text


def _checked_tokens(text: str) -> str:
    tokens_predicate(text)
    return text


def _checked_language(text: str) -> str:
    if text not in LANGUAGES:
        by_name = {name.lower(): code for code, name in NAMES.items()}
        meant = by_name.get(nearest(text.lower(), by_name) or "") or nearest(text.lower(), LANGUAGES)
        raise wrong(f"{text!r} is no language", f"did you mean {meant}?" if meant else ", ".join(sorted(LANGUAGES)))
    return text


def _checked_time(text: str) -> str:
    time_predicate(text)
    return text


def _checked_tag(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name or not equals:
        raise wrong(f"expected a tag such as env=prod, found {text!r}", f"write {text}=* for any value")
    return text


def _tags_listed(value: object) -> object:
    """Also the mapping `{env: prod}`, since that is how tags are written elsewhere; only with one tag, as several
    are ambiguous."""
    if isinstance(value, dict):
        if len(value) != 1:
            raise wrong("expected a tag such as env=prod or a list of them, found a mapping", "one of them must hold")
        name, wanted = next(iter(value.items()))
        return [f"{name}={one}" for one in (wanted if isinstance(wanted, list) else [wanted])]
    return listed(value)


Tags = Annotated[tuple[Annotated[str, AfterValidator(_checked_tag)], ...], BeforeValidator(_tags_listed), OneOrMore]
Sizes = Annotated[tuple[Annotated[str, AfterValidator(_checked_size)], ...], BeforeValidator(listed), OneOrMore]
Tokens = Annotated[tuple[Annotated[str, AfterValidator(_checked_tokens)], ...], BeforeValidator(listed), OneOrMore]
Languages = Annotated[tuple[Annotated[str, AfterValidator(_checked_language)], ...], BeforeValidator(listed), OneOrMore]
Times = Annotated[tuple[Annotated[str, AfterValidator(_checked_time)], ...], BeforeValidator(listed), OneOrMore]


class Conditions(Strict):
    """What a request must be like. Values may be lists, of which one must match, and patterns with `*` and `?`."""

    team: Names | None = None
    """The team of the key."""
    project: Names | None = None
    """The project of the key."""
    key: Names | None = None
    """The id of the key, never the key itself."""
    tag: Tags | None = None
    """A tag of the key or the request, as `name=value`."""
    model: Names | None = None
    """The model that the client asked for."""
    served_model: Names | None = None
    """The model at the upstream, where it is known before the request is sent."""
    endpoint: Names | None = None
    """The endpoint, as `chat.completions` or `embeddings`."""
    tools: Truth | None = None
    """Whether the request offers tools."""
    stream: Truth | None = None
    """Whether the request asks for a stream."""
    size: Sizes | None = None
    """The size of the request's body, as `> 20 KiB` or `4 KiB - 20 KiB`."""
    tokens: Tokens | None = None
    """The tokens of the request's input, as estimated: `> 100k` or `4k - 32k`."""
    language: Languages | None = None
    """The language of what the user said last, by its two letters: `de`."""
    time: Times | None = None
    """The time of day in the file's time zone, as `22:00-06:00` or `mon-fri 09:00-17:00`."""

    @property
    def empty(self) -> bool:
        """Whether nothing is asked for."""
        return all(getattr(self, name) is None for name in type(self).model_fields)

    def compile(self, zone: tzinfo | None = None) -> Predicate | None:
        """One plain function for all conditions, or None where there are none. Times are read in `zone`."""
        found = [
            *self._flags(),
            *self._names(),
            *self._tags(),
            *self._sizes(),
            *self._texts(),
            *self._times(zone),
        ]
        return _all(found) if found else None

    def _flags(self) -> list[Predicate]:
        found: list[Predicate] = []
        if (tools := self.tools) is not None:
            found.append(lambda facts: facts.tools is tools)
        if (stream := self.stream) is not None:
            found.append(lambda facts: facts.stream is stream)
        return found

    def _names(self) -> list[Predicate]:
        found: list[Predicate] = []
        if self.endpoint is not None:
            endpoint = globs(self.endpoint)
            found.append(lambda facts: endpoint(facts.endpoint))
        if self.model is not None:
            model = globs(self.model)
            found.append(lambda facts: model(facts.model))
        if self.served_model is not None:
            served = globs(self.served_model)
            found.append(lambda facts: served(facts.served_model))
        return found + self._identity()

    def _identity(self) -> list[Predicate]:
        found: list[Predicate] = []
        if self.team is not None:
            team = globs(self.team)
            found.append(lambda facts: team(facts.team))
        if self.project is not None:
            project = globs(self.project)
            found.append(lambda facts: project(facts.project))
        if self.key is not None:
            key = globs(self.key)
            found.append(lambda facts: key(facts.key))
        return found

    def _tags(self) -> list[Predicate]:
        if self.tag is None:
            return []
        wanted = [(name, globs([value])) for name, _, value in (tag.partition("=") for tag in self.tag)]
        if len(wanted) == 1:
            name, matches = wanted[0]
            return [lambda facts: matches(facts.tags.get(name))]
        return [lambda facts: any(matches(facts.tags.get(name)) for name, matches in wanted)]

    def _sizes(self) -> list[Predicate]:
        if self.size is None:
            return []
        sizes = [size_predicate(text) for text in self.size]
        if len(sizes) == 1:
            only = sizes[0]
            return [lambda facts: only(facts.size_bytes)]
        return [lambda facts: any(holds(facts.size_bytes) for holds in sizes)]

    def _texts(self) -> list[Predicate]:
        """What the text must be read for: asked last but for the time, since it takes longest."""
        found: list[Predicate] = []
        if self.tokens is not None:
            ranges = [tokens_predicate(text) for text in self.tokens]

            def within(facts: Facts) -> bool:
                tokens = facts.tokens
                return any(holds(tokens) for holds in ranges)

            found.append(within)
        if self.language is not None:
            languages = frozenset(self.language)
            found.append(lambda facts: facts.language in languages)
        return found

    def _times(self, zone: tzinfo | None) -> list[Predicate]:
        if self.time is None:
            return []
        times = [time_predicate(text) for text in self.time]
        if len(times) == 1 and zone is None:
            only = times[0]
            return [lambda facts: only(facts.time())]

        def holds(facts: Facts) -> bool:
            moment = facts.time() if zone is None else facts.time().astimezone(zone)
            return any(within(moment) for within in times)

        return [holds]


def bucket(key: str, salt: str) -> float:
    """A stable draw from [0, 1): the same for the same key and salt in every process, independent between salts."""
    # A length before the salt keeps ("ab", "c") and ("a", "bc") apart.
    digest = blake2b(f"{len(salt)}:{salt}{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def _all(found: list[Predicate]) -> Predicate:
    if len(found) == 1:
        return found[0]
    first, rest = found[0], _all(found[1:])
    return lambda facts: first(facts) and rest(facts)


def _size_hint(text: str) -> str:
    return f"write > {text.strip()}, or < {text.strip()}" if text.strip()[:1].isdigit() else ""


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    begin = _day(first)
    end = begin if last is None else _day(last)
    return frozenset((begin + step) % 7 for step in range((end - begin) % 7 + 1))


def _day(name: str) -> int:
    if name.lower() not in DAYS:
        close = nearest(name, DAYS)
        raise wrong(f"{name!r} is no day", f"did you mean {close}?" if close else ", ".join(DAYS))
    return DAYS.index(name.lower())


def _minute(hour: str, minute: str) -> int:
    total = int(hour) * 60 + int(minute)
    if int(minute) > 59 or total > 24 * 60:
        raise wrong(f"{hour}:{minute} is no time of day")
    return total
