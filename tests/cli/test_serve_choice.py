"""What `weir serve` serves: one rule of precedence, and words that say which way it went."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.output import UsageError
from proxy.cli.serve import OPENAI, Choice, choose

FILE = Path("/etc/weir.yaml")
URL = "http://127.0.0.1:8000/v1"
HERE = Path("weir.yaml")
EVERYTHING = {"WEIR_CONFIG": "named.yaml", "UPSTREAM": URL, "OPENAI_API_KEY": "sk-canary"}


@pytest.mark.parametrize(
    ("config", "upstream", "demo", "env", "found", "kind", "target"),
    [
        (FILE, None, False, EVERYTHING, HERE, "file", FILE),
        (None, URL, False, EVERYTHING, HERE, "upstream", URL),
        (None, None, True, EVERYTHING, HERE, "demo", None),
        (None, None, False, EVERYTHING, HERE, "file", Path("named.yaml")),
        (None, None, False, {"UPSTREAM": URL, "OPENAI_API_KEY": "k"}, HERE, "upstream", URL),
        (None, None, False, {"OPENAI_API_KEY": "k"}, HERE, "file", HERE),
        (None, None, False, {"OPENAI_API_KEY": "k"}, None, "upstream", OPENAI),
        (None, None, False, {"UPSTREAM": "", "OPENAI_API_KEY": ""}, None, "demo", None),
        (None, None, False, {}, None, "demo", None),
    ],
)
def test_precedence(
    config: Path | None,
    upstream: str | None,
    demo: bool,
    env: dict[str, str],
    found: Path | None,
    kind: str,
    target: Path | str | None,
) -> None:
    """The command line wins, then variables, then the file found, then OpenAI; the simulator is what remains."""
    choice = choose(config, upstream, demo, env, found)
    assert (choice.kind, choice.path or choice.url) == (kind, target)


def test_names_exclude_each_other() -> None:
    """Two things to serve at once are a mistake in the command line, not a precedence to guess."""
    with pytest.raises(UsageError, match="exclude each other"):
        choose(FILE, URL, False, {}, None)


def test_says_which_and_why() -> None:
    """The words name the target and the reason, and never the key that led there."""
    assert str(choose(None, None, False, {"UPSTREAM": URL}, None)) == f"{URL} ($UPSTREAM is set)"
    assert str(choose(None, None, False, {"OPENAI_API_KEY": "sk-canary"}, None)) == f"{OPENAI} ($OPENAI_API_KEY is set)"
    assert "SIMULATOR" in str(choose(None, None, False, {}, None))
    assert str(Choice("file", "--config", path=FILE)) == f"the configuration {FILE} (--config)"
