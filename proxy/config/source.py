"""Reads one YAML file into plain values, and remembers where each of them stands.

Rules: of YAML's scalars only those of YAML 1.2's core are understood: `true` and `false`, null, decimal numbers,
text. So `no` and `on` stay words and `22:00` stays a time. A number whose text would be lost (`1.10`, `007`) stays
text; numeric settings read it all the same. Tags are refused. `${NAME}` and `${NAME:-otherwise}` in values are
replaced from the environment; `$${` is a literal `${`. Everything that is wrong is noted, and reading goes on where
it can.

Places cost more than values, and are hardly asked for where nothing is wrong: a file of plain values is read for them
only when somebody asks (`proxy.config.plainly`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from proxy.config.composing import composed
from proxy.config.plainly import MOST_VALUES, PLAIN_TAGS, NeedsPlacesError, is_plain, plain, values
from proxy.config.problems import Location, Problem, nearest, written

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_TELLING = 4  # shorter values stand in too many words to be told apart


class Mark(NamedTuple):
    """A place in a file, counted from 1."""

    line: int
    column: int


@dataclass
class Source:
    """One file: its values as plain Python, and the places of values and keys by their location."""

    file: str
    data: Any = field(default=None, repr=False)
    plain: str | None = field(default=None, repr=False)
    """Its text, where the values follow from that alone."""
    raw: dict[Location, str] = field(default_factory=dict)
    """The text of values in which variables were replaced, as written."""
    held: dict[str, str] = field(default_factory=dict, repr=False)
    """What variables held, and values made of that, by how the file writes it."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Settings that the command line or the environment replaced, and what they came from."""
    origins: dict[Location, str] = field(default_factory=dict)
    """Settings that another file has replaced, and which."""
    problems: list[Problem] = field(default_factory=list)
    _values: dict[Location, Mark] = field(default_factory=dict, repr=False)
    _keys: dict[Location, Mark] = field(default_factory=dict, repr=False)
    _looked: bool = False

    @property
    def values(self) -> dict[Location, Mark]:
        """Where values begin."""
        self._look()
        return self._values

    @property
    def keys(self) -> dict[Location, Mark]:
        """Where keys begin."""
        self._look()
        return self._keys

    def _look(self) -> None:
        """Read the file for its places, which nothing has changed yet."""
        if self._looked or self.plain is None:
            return
        self._looked, seen = True, Source(self.file)
        node = composed(self.plain, seen.refused)
        assert node is not None
        _Reader(seen, {}).document(node)
        self._values, self._keys = seen._values, seen._keys

    @property
    def readable(self) -> bool:
        """Whether there is anything to check."""
        return self.data is not None

    def says(self, content: bytes) -> bool:
        """Whether reading this content would find what was found here."""
        return self.plain is not None and self.plain == content.decode("utf-8-sig", "replace")

    def settle(self, location: Location) -> Location:
        """The location without the parts that the file doesn't hold, such as those a short form leaves out."""
        found: Location = ()
        for part in location:
            if (*found, part) in self.values:
                found = (*found, part)
        return found

    def report(
        self, location: Location, message: str, hint: str = "", *, at_key: bool = False, warning: bool = False
    ) -> None:
        """Note a problem with the value at `location`, or with its key."""
        mark = self.keys.get(location) if at_key else None
        mark = mark or self.values.get(self.settle(location)) or Mark(0, 0)
        origin = self.elsewhere.get(str(location[0])) if location else None
        if origin is not None:
            mark = Mark(0, 0)
        self.add(origin or self.file_of(location), mark, location, message, hint, warning=warning)

    def file_of(self, location: Location) -> str:
        """The file that holds what stands at `location`: this one, unless another has replaced that."""
        if not self.origins:
            return self.file
        above = (location[:length] for length in range(len(location), 0, -1))
        return next((self.origins[part] for part in above if part in self.origins), self.file)

    def replace(self, location: Location, other: Source, there: Location) -> None:
        """Put the value that `other` has at `there` in the place of the one at `location`, with the places of all of
        it; the mapping that `location` is in must be there."""
        for marks in (self.values, self.keys, self.raw):
            _forget(marks, location)
        for mine, theirs in ((self.values, other.values), (self.keys, other.keys), (self.raw, other.raw)):
            _move(mine, location, theirs, there)
        self.held |= other.held
        self.origins[location] = other.file
        *above, name = location
        into, value = self.data, other.data
        for part in above:
            into = into[part]
        for part in there:
            value = value[part]
        into[name] = value

    def refused(self, mark: yaml.Mark | None, message: str, hint: str) -> None:
        """Note why nothing of it can be read."""
        if mark is not None:
            self.values[()] = Mark(mark.line + 1, mark.column + 1)
        self.report((), message, hint)

    def as_written(self, words: str) -> str:
        """`words` with `${NAME}` where they hold what a variable held, be it whole, quoted or cut short."""
        for value in sorted(self.held, key=len, reverse=True):
            if len(value) >= _TELLING:
                for form in (value, repr(value)[1:-1], repr(f"{value[:37]}...")[1:-1]):
                    words = words.replace(form, self.held[value])
        return words

    def add(
        self, file: str, mark: Mark, location: Location, message: str, hint: str = "", *, warning: bool = False
    ) -> None:
        """Note a problem at a place that is known."""
        self.problems.append(
            Problem(
                file=file,
                line=mark.line,
                column=mark.column,
                path=written(location),
                message=self.as_written(message),
                hint=self.as_written(hint),
                severity="warning" if warning else "error",
            )
        )


def _forget(marks: dict[Location, Any], location: Location) -> None:
    for known in [known for known in marks if known[: len(location)] == location]:
        del marks[known]


def _move(into: dict[Location, Any], location: Location, marks: Mapping[Location, Any], there: Location) -> None:
    for known, mark in marks.items():
        if known[: len(there)] == there:
            into[*location, *known[len(there) :]] = mark


def read(file: str, content: bytes, env: Mapping[str, str], *, places: bool = False) -> Source:
    """Parse one file; `source.data` is None where nothing could be read. With `places`, they will be asked for."""
    source = Source(file)
    text = _decoded(source, content)
    node = composed(text, source.refused) if text is not None else None
    if node is not None:
        _take(source, env, "" if places else text, node)
    elif not source.problems:
        source.values[()] = Mark(1, 1)
        source.report((), "the file is empty", "it begins with version: 1")
    return source


def _take(source: Source, env: Mapping[str, str], text: str | None, node: yaml.Node) -> None:
    if text and is_plain(text):
        try:
            source.data, source.plain = values(node), text
            return
        except NeedsPlacesError:
            pass
    _Reader(source, env).document(node)


def _decoded(source: Source, content: bytes) -> str | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        source.values[()] = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        source.report((), "the file isn't UTF-8", "save it as UTF-8")
        return None
    bad = re.search(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)
    if bad is None:
        return text
    before_text = text[: bad.start()]
    source.values[()] = Mark(before_text.count("\n") + 1, bad.start() - before_text.rfind("\n"))
    source.report((), f"the control character U+{ord(bad[0]):04X} can't stand in YAML", "remove it")
    return None


class _Reader:
    """Walks the composed nodes once."""

    def __init__(self, source: Source, env: Mapping[str, str]) -> None:
        self.source = source
        self.env = env
        self.open: set[int] = set()  # nodes being read, so that an alias to one of them is noticed

    def document(self, node: yaml.Node) -> None:
        try:
            self.source.data = self.value(node, ())
        except RecursionError:
            self.source.report((), "nested too deeply")

    def value(self, node: yaml.Node, location: Location) -> Any:
        self.source.values[location] = _mark(node)
        if id(node) in self.open or len(self.source.values) > MOST_VALUES:
            self.source.report(location, "refers to itself" if id(node) in self.open else "far too many values")
            return None
        if node.tag not in PLAIN_TAGS:
            self.source.report(location, f"the tag {node.tag!r} means nothing here", "leave it out")
        self.open.add(id(node))
        try:
            return self.content(node, location)
        finally:
            self.open.discard(id(node))

    def content(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*location, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, location)

    def mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.source.report(location, "a mapping or list can't be a key", 'quote text with braces: "{a}"')
            elif key.value == "<<" and not key.style:
                merged.append(value)
            elif key.value in found:
                where = (*location, key.value)
                message = f"written twice, first in line {self.source.keys[where].line}"
                self.source.add(self.source.file, _mark(key), where, message, "keep one of them")
            else:
                self.source.keys[*location, key.value] = _mark(key)
                found[key.value] = self.value(value, (*location, key.value))
        for other in merged:
            self.merge(found, other, location)
        return found

    def merge(self, found: dict[str, Any], node: yaml.Node, location: Location) -> None:
        """`<<: *defaults` adds the keys that aren't written out."""
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.merge(found, item, location)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value not in found:
                    self.source.keys[*location, key.value] = _mark(key)
                    found[key.value] = self.value(value, (*location, key.value))
        else:
            self.source.report(location, "<< takes a mapping", "write <<: *name")

    def scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text = node.value
        if "${" in text:
            self.source.raw[location] = text
            value = _REFERENCE.sub(lambda match: self.replaced(match, location), text)
            self.source.held[value] = text
            return value
        return text if node.style else plain(text or "")  # plain is None to PyYAML, "" to libyaml

    def replaced(self, match: re.Match[str], location: Location) -> str:
        if match[1] is None:
            return "${"
        variable = _VARIABLE.fullmatch(match[1]) if match[0].endswith("}") else None
        if variable is None:
            self.source.report(location, f"{match[0]!r} names no variable", "write ${NAME}, or $${ for a literal ${")
            return ""
        name, otherwise = variable.groups()
        value = self.env.get(name)
        if value:
            self.source.held[value] = f"${{{name}}}"
        if otherwise is not None:
            return value or otherwise
        if value is None:
            close = nearest(name, self.env)
            default = "" if location[-1:] == ("key",) else f", or write ${{{name}:-otherwise}}"
            hint = f"did you mean {close}?" if close else f"set it{default}"
            self.source.report(location, f"the environment variable {name} isn't set", hint)
        return value or ""


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
