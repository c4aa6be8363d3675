"""Log lines."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.logs import Form, Log, masked

NOON = datetime(2030, 1, 2, 12, 0, 0, 5000, UTC)


def written(form: Form, event: str, **fields: Any) -> str:
    stream = io.StringIO()
    Log(form, stream=stream, now=lambda: NOON).info(event, **fields)
    return stream.getvalue()


def test_json_is_one_object_a_line() -> None:
    """Time, level and event come first and can't be replaced by fields."""
    line = written("json", "worker ready", worker=1, level="x", at="y", extra=None)
    assert line.count("\n") == 1
    assert list(json.loads(line).items()) == [
        ("at", "2030-01-02T12:00:00.005Z"),
        ("level", "info"),
        ("event", "worker ready"),
        ("worker", 1),
    ]


def test_human_is_one_line_without_colour_in_a_pipe() -> None:
    """Fields as name=value, quoted where they hold spaces."""
    line = written("human", "worker died", worker=1, reason="two words", listen=["a", "b"])
    assert line.endswith('info    worker died worker=1 reason="two words" listen=["a","b"]\n')
    assert "\x1b" not in line


def test_below_the_level_nothing_is_written() -> None:
    """The level follows the configuration while it runs."""
    stream = io.StringIO()
    log = Log("human", "warning", stream=stream)
    log.info("no")
    log.level = "debug"
    log.debug("yes")
    assert "no" not in stream.getvalue()
    assert "yes" in stream.getvalue()


@pytest.mark.parametrize("form", ["human", "json"])
@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": "canary"},
        {"api_key": "canary"},
        {"x-api-key": "canary"},
        {"body": "canary"},
        {"nested": {"token": "canary"}},
        {"text": "sent sk-canarycanary to it"},
        {"text": ["Bearer canary-canary"]},
        {"text": "wk-canary_canary"},
    ],
)
def test_keys_and_bodies_are_masked(form: Form, fields: dict[str, Any]) -> None:
    """By the field's name or by the look of the value, at any depth."""
    line = written(form, "event", **fields)
    assert "canary" not in line
    assert "[masked]" in line


def test_ordinary_text_is_not_masked() -> None:
    """Token counts and key ids are no secrets."""
    line = json.loads(written("json", "e", input_tokens=5, key="key_1", keys=3))
    assert (line["input_tokens"], line["key"], line["keys"]) == (5, "key_1", 3)
    assert masked("task-force risk-averse") == "task-force risk-averse"


def test_a_value_cannot_forge_a_line() -> None:
    """Line breaks and escape sequences from a request stay within their line, escaped."""
    line = written("human", "event", model='x\n12:00:00 info forged\x1b[2J"')
    assert line.count("\n") == 1
    assert "\x1b" not in line


def test_a_closed_stream_is_survived() -> None:
    """Whoever read the logs is gone; serving goes on."""
    stream = io.StringIO()
    stream.close()
    Log(stream=stream).error("event")
