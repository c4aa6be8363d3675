"""Which answers may be kept: each way in which one isn't whole."""

from __future__ import annotations

from typing import Any

import pytest

from policies.cache.keepable import keepable
from tests.policies.cache.scripted import chat

SAID = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
REFUSED = [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]


def response(status: str, why: str | None = None, output: Any = SAID) -> dict[str, Any]:
    return {"status": status, "incomplete_details": {"reason": why} if why else None, "output": output, "error": None}


CHAT, MESSAGES, RESPONSES = "chat.completions", "messages", "responses"
WHOLE: list[tuple[str, Any]] = [
    (CHAT, chat("stop")),
    (CHAT, chat("stop", "tool_calls")),
    (CHAT, chat("length")),
    (CHAT, chat("function_call")),
    ("completions", {"choices": [{"text": "Hi", "finish_reason": "stop"}]}),
    (MESSAGES, {"stop_reason": "end_turn"}),
    (MESSAGES, {"stop_reason": "tool_use"}),
    (MESSAGES, {"stop_reason": "max_tokens"}),
    (RESPONSES, response("completed")),
    (RESPONSES, response("incomplete", "max_output_tokens")),
    ("embeddings", {"data": [{"embedding": [0.1]}]}),
    ("moderations", {"results": [{"flagged": False}]}),
]
NOT_WHOLE: list[tuple[str, Any]] = [
    (CHAT, chat("content_filter")),
    (CHAT, chat("stop", "content_filter")),
    (CHAT, chat(None)),
    (CHAT, chat("some_day")),
    (CHAT, chat()),
    (CHAT, {**chat("stop"), "choices": None}),
    (CHAT, {**chat("stop"), "choices": ["?"]}),
    (CHAT, {**chat("stop"), "error": {"message": "half of it"}}),
    (CHAT, ["?"]),
    (CHAT, None),
    (MESSAGES, {"stop_reason": "pause_turn"}),
    (MESSAGES, {"stop_reason": None}),
    (MESSAGES, {}),
    (RESPONSES, response("failed")),
    (RESPONSES, response("in_progress")),
    (RESPONSES, response("queued")),
    (RESPONSES, response("cancelled")),
    (RESPONSES, response("incomplete", "content_filter")),
    (RESPONSES, response("incomplete")),
    (RESPONSES, {"status": "completed"}),
    ("embeddings", {"data": []}),
    ("embeddings", {}),
]
REFUSALS: list[tuple[str, Any]] = [
    (CHAT, chat("stop", refusal="No.")),
    (MESSAGES, {"stop_reason": "refusal"}),
    (RESPONSES, response("completed", output=REFUSED)),
]


@pytest.mark.parametrize(("endpoint", "answer"), WHOLE)
def test_whole(endpoint: str, answer: Any) -> None:
    """What ended as answers end."""
    assert keepable(endpoint, answer, long_enough=True, refusals=False)


@pytest.mark.parametrize(("endpoint", "answer"), NOT_WHOLE)
def test_not_whole(endpoint: str, answer: Any) -> None:
    """What was filtered, paused, broke off, or ended in a way that nobody knows; also where refusals are kept."""
    assert not keepable(endpoint, answer, long_enough=True, refusals=False)
    assert not keepable(endpoint, answer, long_enough=True, refusals=True)


@pytest.mark.parametrize(("endpoint", "answer"), REFUSALS)
def test_refusals(endpoint: str, answer: Any) -> None:
    """As the policy says, in each dialect."""
    assert not keepable(endpoint, answer, long_enough=True, refusals=False)
    assert keepable(endpoint, answer, long_enough=True, refusals=True)


def test_shortened_by_the_proxy() -> None:
    """What ended at a cap of ours isn't what the client asked for; what ended before it is."""
    cut = [(CHAT, chat("length")), (MESSAGES, {"stop_reason": "max_tokens"})]
    for endpoint, answer in [*cut, (RESPONSES, response("incomplete", "max_output_tokens"))]:
        assert not keepable(endpoint, answer, long_enough=False, refusals=True)
    assert keepable(CHAT, chat("stop"), long_enough=False, refusals=False)
