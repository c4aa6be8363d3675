"""Reads one YAML file into plain values, and remembers where each of them stands.

Rules: of YAML's scalars only those of YAML 1.2's core are understood: `true` and `false`, null, decimal numbers,
text. So `no` and `on` stay words and `22:00` stays a time. A number whose text would be lost (`1.10`, `007`) stays
text; numeric settings read it all the same. Tags are refused. `${NAME}` and `${NAME:-otherwise}` in values are
replaced from the environment; `$${` is a literal `${`. Everything that is wrong is noted, and reading goes on where
it can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from proxy.config.problems import Location, Problem, nearest, written

_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"
_PLAIN_TAGS = {_TEXT, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_TELLING = 4  # shorter values stand in too many words to be told apart
_MOST_VALUES = 300_000  # ten thousand keys in a teams file are a fifth of it

# What PyYAML says, what that usually means, and what would be right. The first that matches counts.
_INDENTATION = ("the indentation doesn't fit the lines above", "keys of one mapping begin in one column")
_SYNTAX = [
    (r"'\\t'", "a tab can't indent here", "indent with spaces"),
    (r"unexpected end of stream", "a quote is never closed", ""),
    (r"mapping values are not allowed", "a colon where no key can be", "check the indentation, or quote the text"),
    (r"expected <block end>", *_INDENTATION),
    (r"could not find expected ':'", "a line that is no `key: value`", "write a space after the colon"),
    (r"expected ',' or", "unreadable inside braces or brackets", 'quote text with { } [ ] or commas: "${NAME}"'),
    (
        r"expected the node content",
        "unreadable inside braces or brackets",
        'quote text with { } [ ] or commas: "${NAME}"',
    ),
    (r"expected alphabetic or numeric", "`*` and `&` begin an alias", 'quote it: "*"'),
    (r"undefined alias", "`*` begins an alias, and there is no such one", 'quote it: "*"'),
    (r"found character '[%@`]'", "text can't begin with this character", "quote it"),
    (r"single document", "a second document", "a file holds one; leave out the ---"),
]


class Mark(NamedTuple):
    """A place in a file, counted from 1."""

    line: int
    column: int


@dataclass
class Source:
    """One file: its values as plain Python, and the places of values and keys by their location."""

    file: str
    data: Any = field(default=None, repr=False)
    values: dict[Location, Mark] = field(default_factory=dict)
    keys: dict[Location, Mark] = field(default_factory=dict)
    raw: dict[Location, str] = field(default_factory=dict)
    """The text of values in which variables were replaced, as written."""
    held: dict[str, str] = field(default_factory=dict, repr=False)
    """What variables held, and values made of that, by how the file writes it."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Settings that the command line or the environment replaced, and what they came from."""
    origins: dict[Location, str] = field(default_factory=dict)
    """Settings that another file has replaced, and which."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def readable(self) -> bool:
        """Whether there is anything to check."""
        return self.data is not None

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


def read(file: str, content: bytes, env: Mapping[str, str]) -> Source:
    """Parse one file; `source.data` is None where nothing could be read."""
    source = Source(file)
    text = _decoded(source, content)
    node = _composed(source, text) if text is not None else None
    if node is not None:
        _Reader(source, env).document(node)
    elif not source.problems:
        source.values[()] = Mark(1, 1)
        source.report((), "the file is empty", "it begins with version: 1")
    return source


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


def _composed(source: Source, text: str) -> yaml.Node | None:
    try:
        return _compose(text, _Fast)
    except (yaml.YAMLError, RecursionError):
        pass  # libyaml's messages differ; PyYAML's own parser words them in one way
    try:
        return _compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        _note_syntax(source, error)
    except RecursionError:
        source.report((), "nested too deeply")
    return None


def _compose(text: str, base: Any) -> yaml.Node | None:
    class Plain(base):  # type: ignore[misc]
        """Leaves the meaning of plain scalars to us."""

        yaml_implicit_resolvers: dict[str, Any] = {}

    loader = Plain(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _note_syntax(source: Source, error: yaml.MarkedYAMLError) -> None:
    mark = error.problem_mark or error.context_mark
    if mark is not None:
        source.values[()] = Mark(mark.line + 1, mark.column + 1)
    said = f"{error.context or ''} {error.problem or ''}"
    for pattern, message, hint in _SYNTAX:
        if re.search(pattern, said):
            source.report((), message, hint)
            return
    source.report((), error.problem or error.context or "not YAML")


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
        if id(node) in self.open or len(self.source.values) > _MOST_VALUES:
            self.source.report(location, "refers to itself" if id(node) in self.open else "far too many values")
            return None
        if node.tag not in _PLAIN_TAGS:
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
        return text if node.style else _plain(text)  # plain is None to PyYAML, "" to libyaml

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


def _plain(text: str) -> Any:
    """A plain scalar by YAML 1.2's core schema, restricted to what loses nothing."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text) and len(text) < 19:
        return int(text)
    if _FLOAT.fullmatch(text) and repr(float(text)) == text:
        return float(text)
    return text


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
