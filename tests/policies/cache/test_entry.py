"""Entries at rest and as hits: what was kept comes back, in either form, but for its own id and times."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from policies.cache.entry import Entry, Rendering, decoded, encoded
from proxy.dialects.gathering import gathered
from tests.policies.cache.scripted import USAGE

TEXTS = st.text(max_size=80) | st.sampled_from(['{"id":"chatcmpl-1"}', '"id":', "\\", '\\"', "1790000000", "\u2028"])
CALL = st.builds(
    lambda name, text: {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}}, TEXTS, TEXTS
)
LOGPROBS = st.lists(TEXTS, min_size=1, max_size=4).map(
    lambda tokens: (
        "".join(tokens),
        {"content": [{"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in tokens]},
    )
)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A chat completion as it may come whole."""
    choices = []
    for index in range(draw(st.integers(1, 3))):
        content, logprobs = draw(LOGPROBS | st.tuples(TEXTS, st.none()))
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if draw(st.booleans()):
            message = {"role": "assistant", "content": None, "tool_calls": draw(st.lists(CALL, min_size=1, max_size=3))}
            logprobs = None
        end = draw(st.sampled_from(("stop", "tool_calls", "length")))
        choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": end})
    told = {"id": "chatcmpl-old", "object": "chat.completion", "created": 1790000000, "model": draw(TEXTS)}
    return {**told, "choices": choices, "usage": USAGE, **draw(st.dictionaries(st.just("system_fingerprint"), TEXTS))}


def entry(body: bytes, dialect: str | None = "chat", **fields: Any) -> Entry:
    """An entry that holds this body."""
    usual = {
        "key": "k" * 32,
        "kind": "application/json",
        "made_s": 1.5,
        "model": "gpt-4o-mini",
        "served": "gpt-4o-mini-2024-07-18",
        "tokens": {"input_tokens": 5},
        "nanodollars": 7,
        "ttl_s": 60.0,
        "tags": ("tenant=a", "model=gpt-4o-mini"),
    }
    return Entry(**{**usual, "body": body, "dialect": dialect, **fields})


def but_own(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in ("id", "created")}


@given(chats(), st.booleans())
def test_a_hit_is_the_answer(answer: dict[str, Any], pretty: bool) -> None:
    """Whole or streamed, spaced or not: gathered again it is the same, with the new id and time."""
    text = orjson.dumps(answer, option=orjson.OPT_INDENT_2 if pretty else None)
    made = Rendering(entry(text))
    for _ in range(2):  # the second comes from what the first prepared
        whole = orjson.loads(made.whole("fresh", 1800000000.9))
        assert (whole["id"], whole["created"]) == ("chatcmpl-fresh", 1800000000)
        assert but_own(whole) == but_own(answer)
        for usage in (False, True):
            stream = made.streamed("fresh", 1800000001.0, include_usage=usage)
            assert stream is not None and stream.endswith(b"data: [DONE]\n\n")
            payloads = [line.removeprefix(b"data: ") for line in stream.split(b"\n\n")[:-1]]
            assert {orjson.loads(p)["id"] for p in payloads[:-1]} == {"chatcmpl-fresh"}
            assert {orjson.loads(p)["created"] for p in payloads[:-1]} == {1800000001}
            again = gathered("chat", payloads)
            assert again is not None
            assert but_own(again) == {k: v for k, v in but_own(answer).items() if usage or k != "usage"}


@given(st.binary(max_size=2000) | st.binary(max_size=4).map(lambda piece: piece * 1000), TEXTS)
def test_at_rest(body: bytes, tag: str) -> None:
    """What is packed is unpacked; what is damaged, cut, or of another version, is nothing."""
    kept = entry(body, None, tags=(tag,), served=None, nanodollars=None)
    packed = encoded(kept)
    assert decoded(packed) == kept
    assert len(packed) < len(body) + 400
    for broken in (b"", packed[:-1], packed[:7], b"\x00" + packed, b"[]", packed.replace(b"made_s", b"mode_s")):
        assert decoded(broken) is None


def test_repetition_is_packed() -> None:
    """A long text takes less room in the state than it has bytes."""
    assert len(encoded(entry(b"a low wall across a river " * 400, None))) < 1000


def test_times_of_a_response() -> None:
    """A response that is given again is made and completed now: it isn't completed before it is made."""
    body = {"id": "resp_old", "created_at": 5, "completed_at": 6, "status": "completed", "output": []}
    made = Rendering(entry(orjson.dumps(body), "responses"))
    assert orjson.loads(made.whole("fresh", 90.0)) == {
        **body,
        "id": "resp_fresh",
        "created_at": 90,
        "completed_at": 90,
    }


def test_a_kept_stream_counts() -> None:
    """An entry grows by the forms that it keeps, and by nothing when they are used again."""
    made = Rendering(entry(orjson.dumps({"id": "chatcmpl-1", "created": 1, "choices": [], "usage": USAGE})))
    sizes = [made.size_bytes]
    for usage in (False, False, True, True):
        made.streamed("fresh", 1.0, include_usage=usage)
        sizes.append(made.size_bytes)
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3] == sizes[4]
