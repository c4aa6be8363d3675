"""What `weir serve` serves: one rule of precedence, and words that say which way it went."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.output import UsageError
from proxy.cli.serve import OPENAI, Choice, choose

FILE = Path("/etc/weir.yaml")
URL = "http://127.0.0.1:8000/v1"
EVERYTHING = {"UPSTREAM": URL, "OPENAI_API_KEY": "sk-canary"}


@pytest.mark.parametrize(
    ("config", "upstream", "demo", "env", "file_here", "kind", "target"),
    [
        (FILE, None, False, EVERYTHING, True, "file", FILE),
        (None, URL, False, {"OPENAI_API_KEY": "k"}, True, "upstream", URL),
        (None, None, True, EVERYTHING, True, "demo", None),
        (None, None, False, EVERYTHING, True, "upstream", URL),
        (None, None, False, {"OPENAI_API_KEY": "k"}, True, "file", Path("weir.yaml")),
        (None, None, False, {"OPENAI_API_KEY": "k"}, False, "upstream", OPENAI),
        (None, None, False, {"UPSTREAM": "", "OPENAI_API_KEY": ""}, False, "demo", None),
        (None, None, False, {}, False, "demo", None),
    ],
)
def test_precedence(
    config: Path | None,
    upstream: str | None,
    demo: bool,
    env: dict[str, str],
    file_here: bool,
    kind: str,
    target: Path | str | None,
) -> None:
    """The command line wins, then $UPSTREAM, ./weir.yaml, OpenAI; the simulator is what remains."""
    choice = choose(config, upstream, demo, env, file_here)
    assert (choice.kind, choice.path or choice.url) == (kind, target)


def test_names_exclude_each_other() -> None:
    """Two things to serve at once are a mistake in the command line, not a precedence to guess."""
    with pytest.raises(UsageError, match="exclude each other"):
        choose(FILE, URL, False, {}, False)


def test_says_which_and_why() -> None:
    """The words name the target and the reason, and never the key that led there."""
    assert str(choose(None, None, False, EVERYTHING, False)) == f"{URL} ($UPSTREAM is set)"
    assert (
        str(choose(None, None, False, {"OPENAI_API_KEY": "sk-canary"}, False)) == f"{OPENAI} ($OPENAI_API_KEY is set)"
    )
    assert "SIMULATOR" in str(choose(None, None, False, {}, False))
    assert str(Choice("file", "--config", path=FILE)) == f"the configuration {FILE} (--config)"
