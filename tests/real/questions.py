"""What is asked of llama.cpp, directly and through Weir, and what of an answer may differ between two askings.

Every question is greedy and does without the prompt cache, so that the same question has the same answer.
"""

from __future__ import annotations

from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
FRESH = {"extra_body": {"cache_prompt": False}}
GREEDY: dict[str, Any] = {"model": "tiny-random", "temperature": 0, "seed": 7, **FRESH}
HELLO = [{"role": "system", "content": "Be brief – or not: “naïve” 🙂"}, {"role": "user", "content": "Hello"}]

CALL: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "weather", "description": "Tell it.", "parameters": SCHEMA}}],
    "tool_choice": "required",
    "logit_bias": {"<tool_call>": 100},  # the model's own wish would be noise
    "max_tokens": 120,
}
RESULT = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}

CHATS: dict[str, dict[str, Any]] = {
    "plain": {**GREEDY, "messages": HELLO, "max_tokens": 24},
    "logprobs": {**GREEDY, "messages": HELLO, "max_tokens": 8, "logprobs": True, "top_logprobs": 3},
    "two": {**GREEDY, "messages": HELLO, "max_tokens": 8, "n": 2},
    "json_schema": {**GREEDY, "messages": HELLO, "max_tokens": 120, "response_format": JSON_SCHEMA},
    "tools": {**GREEDY, "messages": HELLO, **CALL},
    "tool_result": {**GREEDY, "messages": RESULT, "tools": CALL["tools"], "max_tokens": 8},
    "stop": {**GREEDY, "messages": HELLO, "max_tokens": 64, "stop": ["a", "e", "i"], "metadata": {"team": "docs"}},
}
COMPLETION: dict[str, Any] = {**GREEDY, "prompt": "def main(", "max_tokens": 12}
RESPONSE: dict[str, Any] = {
    "model": "tiny-random",
    "input": "Hello",
    "max_output_tokens": 12,
    "temperature": 0,
    **FRESH,
}

DIFFERENT = {"id", "created", "created_at", "completed_at", "item_id", "response_id", "timings", "usage_timings"}


def same(answer: Any) -> Any:
    """An answer without what differs between two askings: made-up ids, the clock, and how long it took."""
    if hasattr(answer, "model_dump"):
        answer = answer.model_dump()
    if isinstance(answer, dict):
        return {key: same(value) for key, value in answer.items() if key not in DIFFERENT}
    return [same(value) for value in answer] if isinstance(answer, list) else answer
