# ruff: noqa: E501  # a table reads best with a case a line
"""YAML into values with places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.source import read


def problems(text: str | bytes, env: dict[str, str] | None = None) -> list[str]:
    content = text if isinstance(text, bytes) else text.encode()
    return [str(problem) for problem in read("f.yaml", content, env or {}).problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("off", "off"),
        ("22:00", "22:00"),
        ("1_000", "1_000"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("1.5", 1.5),
        ("-3", -3),
        ("0x10", "0x10"),
        ("2027-12-31", "2027-12-31"),
        ("~", None),
        ("'5'", "5"),
        ("1e3", "1e3"),
        (".nan", ".nan"),
    ],
)
def test_scalars(written: str, value: object) -> None:
    """Only what loses nothing becomes a number or a boolean; all the rest stays text."""
    found = read("f.yaml", f"a: {written}".encode(), {}).data["a"]
    assert found == value
    assert type(found) is type(value)


def test_places() -> None:
    """Every value and every key knows its line and column, counted from 1."""
    source = read("f.yaml", b"a:\n  - {b: 1}\n  - text\n", {})
    assert source.data == {"a": [{"b": 1}, "text"]}
    assert source.values["a", 1] == (3, 5)
    assert source.values["a", 0, "b"] == (2, 9)
    assert source.keys["a", 0, "b"] == (2, 6)


def test_columns_count_characters() -> None:
    """A column counts characters, not bytes, as editors do."""
    assert read("f.yaml", "{ü: €, b: 1}".encode(), {}).values[("b",)] == (1, 11)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\tb: 1\n", "f.yaml:2:1: error: a tab can't indent here (indent with spaces)"),
        ("a: 1\n b: 2\n", "f.yaml:2:3: error: a colon where no key can be (check the indentation, or quote the text)"),
        (
            "a:\n    b: 1\n  c: 2\n",
            "f.yaml:3:3: error: the indentation doesn't fit the lines above (keys of one mapping begin in one column)",
        ),
        ("*: {upstream: a}\n", "f.yaml:1:2: error: `*` and `&` begin an alias (quote it: \"*\")"),
        (
            "a: {key: ${NAME}}\n",
            'f.yaml:1:11: error: unreadable inside braces or brackets (quote text with { } [ ] or commas: "${NAME}")',
        ),
        ("a: %5\n", "f.yaml:1:4: error: text can't begin with this character (quote it)"),
        ('a: "open\n', "f.yaml:2:1: error: a quote is never closed"),
        ("a: 1\n---\nb: 1\n", "f.yaml:2:1: error: a second document (a file holds one; leave out the ---)"),
        ("", "f.yaml:1:1: error: the file is empty (it begins with version: 1)"),
        ("# only a comment\n", "f.yaml:1:1: error: the file is empty (it begins with version: 1)"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: error: a: written twice, first in line 1 (keep one of them)"),
        ("a: !!python/object:os.system {}\n", "f.yaml:1:4: error: a: the tag 'tag:yaml.org,2002:python/object:os.system' means nothing here (leave it out)"),
        ("a: &x [*x]\n", "f.yaml:1:4: error: a[0]: refers to itself"),
        ("{[a]: 1}\n", "f.yaml:1:1: error: a mapping or list can't be a key (quote text with braces: \"{a}\")"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: error: the file isn't UTF-8 (save it as UTF-8)"),
        ("a: 1\nb: \x07\n", "f.yaml:2:4: error: the control character U+0007 can't stand in YAML (remove it)"),
    ],
)  # fmt: skip
def test_what_people_mistype(text: str | bytes, expected: str) -> None:
    """A file that isn't the YAML that was meant is answered with the place and what would be right."""
    assert problems(text) == [expected]


def test_an_alias_bomb_ends() -> None:
    """Aliases that multiply are cut off instead of filling the memory."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert any("far too many values" in problem for problem in problems("\n".join(rows)))


def test_deep_nesting_ends() -> None:
    """Brackets without end are an error, not a crash."""
    assert problems("a: " + "[" * 5000) != []


def test_byte_order_mark() -> None:
    """A byte order mark, which some editors write, is passed over."""
    assert read("f.yaml", b"\xef\xbb\xbfa: 1", {}).data == {"a": 1}


def test_merge_keys() -> None:
    """`<<` adds what isn't written out; what is written out wins."""
    source = read("f.yaml", b"base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}\n", {})
    assert source.data["other"] == {"a": 1, "b": 3}
    assert source.problems == []


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "one"),
        ("x-${A}-y", "x-one-y"),
        ("${B:-two}", "two"),
        ("${A:-two}", "one"),
        ("${EMPTY:-two}", "two"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("100$", "100$"),
    ],
)
def test_environment(written: str, value: str) -> None:
    """`${NAME}` is replaced, with a default if it says so; `$${` stays."""
    source = read("f.yaml", f'a: "{written}"'.encode(), {"A": "one", "EMPTY": ""})
    assert (source.data, source.problems) == ({"a": value}, [])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${OPENAI_KEY}", "the environment variable OPENAI_KEY isn't set (did you mean OPENAI_API_KEY?)"),
        ("${ZZZ}", "the environment variable ZZZ isn't set (set it, or write ${ZZZ:-otherwise})"),
        ("${A B}", "'${A B}' names no variable (write ${NAME}, or $${ for a literal ${)"),
        ("${OPEN", "'${OPEN' names no variable (write ${NAME}, or $${ for a literal ${)"),
    ],
)
def test_environment_mistakes(written: str, expected: str) -> None:
    """A variable that isn't there, or isn't one, is reported at its place; no value of the environment is shown."""
    assert problems(f'a:\n  b: "{written}"\n', {"OPENAI_API_KEY": "canary"}) == [f"f.yaml:2:6: error: a.b: {expected}"]


@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    """Whatever is in the file, reading ends with values or with problems that have a place."""
    source = read("f.yaml", text.encode("utf-8", "surrogatepass"), {})
    assert source.data is not None or all(problem.line >= 1 for problem in source.problems)


def test_what_a_variable_held_is_never_in_a_message() -> None:
    """Whole, as a part of a value, quoted or cut short: the file's own words stand there."""
    secret = "s3cr'et-" + "x" * 60
    source = read("weir.yaml", b'a: "${SECRET}"\nb: "redis://:${SECRET}@h"\n', {"SECRET": secret})
    for words in (secret, repr(secret), f"redis://:{secret}@h", repr(secret[:37] + "..."), f"at {secret}: no"):
        source.report(("a",), f"found {words}", f"not {words}")
    for problem in source.problems:
        assert "x" * 10 not in str(problem)
        assert "${SECRET}" in problem.message
        assert "${SECRET}" in problem.hint
    assert secret not in repr(source)
