"""An unchanged openai-python against llama.cpp's server: through Weir it is told what it is told directly."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from typing import Any

import openai
import pytest

from .llama import Llama
from .questions import CHATS, COMPLETION, HELLO, RESPONSE, same
from .weir import Weir

chats = pytest.mark.parametrize("name", CHATS)
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
VARYING = re.compile(rb'"(?:id":"[^"]*"|created":\d+|timings":\{[^}]*\})')
OVERFLOW = {"model": "tiny-random", "messages": [{"role": "user", "content": "too long " * 40_000}], "max_tokens": 4}


@chats
def test_a_chat_is_answered_as_directly(direct: openai.OpenAI, through: openai.OpenAI, name: str) -> None:
    """Text, choices, log probabilities, tool calls, finish reasons and usage of a unary chat are llama.cpp's."""
    answer = through.chat.completions.create(**CHATS[name])
    assert answer.usage is not None and answer.usage.completion_tokens > 0
    assert same(answer) == same(direct.chat.completions.create(**CHATS[name]))


@chats
@pytest.mark.parametrize("usage", [False, True], ids=["usage-unasked", "usage-asked"])
def test_a_stream_is_the_same_chunk_by_chunk(
    direct: openai.OpenAI, through: openai.OpenAI, name: str, usage: bool
) -> None:
    """Every chunk of a stream arrives as llama.cpp sent it, and none more, whether usage was asked for or not."""
    asked = CHATS[name] | (STREAMED if usage else {"stream": True})
    chunks = same(list(through.chat.completions.create(**asked)))
    assert len(chunks) > 2
    assert chunks == same(list(direct.chat.completions.create(**asked)))


def test_usage_is_seen_in_a_stream_only_when_asked_for(through: openai.OpenAI) -> None:
    """Weir asks the upstream for usage in any case, and the client sees that chunk only if it asked as well."""
    unasked = list(through.chat.completions.create(**CHATS["plain"], stream=True))
    asked = list(through.chat.completions.create(**CHATS["plain"], **STREAMED))
    assert all(chunk.usage is None and chunk.choices for chunk in unasked)
    assert asked[-1].choices == [] and asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 24
    assert len(asked) == len(unasked) + 1


def test_what_the_questions_are_about_is_in_the_answers(through: openai.OpenAI) -> None:
    """The comparisons above compare something: two choices, log probabilities, a valid object, a valid call."""

    def first(name: str) -> Any:
        return through.chat.completions.create(**CHATS[name]).choices[0]

    assert len(through.chat.completions.create(**CHATS["two"]).choices) == 2
    assert len(first("logprobs").logprobs.content[0].top_logprobs) == 3
    assert set(json.loads(first("json_schema").message.content)) == {"city", "days"}
    called = first("tools").message.tool_calls[0].function
    assert called.name == "weather" and set(json.loads(called.arguments)) == {"city", "days"}


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_completions(direct: openai.OpenAI, through: openai.OpenAI, stream: bool) -> None:
    """The older completions endpoint answers as directly, streamed or not."""

    def ask(client: openai.OpenAI) -> Any:
        answer = client.completions.create(**COMPLETION, stream=stream)
        return same(list(answer) if stream else answer)

    assert ask(through) == ask(direct)


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_responses(direct: openai.OpenAI, through: openai.OpenAI, stream: bool) -> None:
    """The Responses API answers as directly; its stream ends in response.completed, with usage."""

    def ask(client: openai.OpenAI) -> Any:
        answer = client.responses.create(**RESPONSE, stream=stream)
        return same(list(answer) if stream else answer)

    told = ask(through)
    assert told == ask(direct)
    final = told[-1]["response"] if stream else told
    assert final["status"] == "completed" and final["usage"]["output_tokens"] == 12


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(embedder: Llama, through: openai.OpenAI, encoding: str) -> None:
    """Vectors are the embedding server's, bit for bit, in both encodings of the API."""
    asked: Any = {"input": ["one", "two words", "drei"], "encoding_format": encoding}
    with openai.OpenAI(base_url=embedder.url, api_key="none") as direct:
        expected = direct.embeddings.create(model=embedder.model, **asked)
    answer = through.embeddings.create(model="tiny-embedding", **asked)
    vectors = [item.embedding for item in answer.data]
    assert vectors == [item.embedding for item in expected.data]
    assert [len(vector) for vector in vectors] == [128 if encoding == "float" else 684] * 3
    assert answer.usage == expected.usage


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_a_prompt_too_long_is_refused_by_the_upstream_in_its_own_words(
    direct: openai.OpenAI, through: openai.OpenAI, stream: bool
) -> None:
    """Context overflow is a 400 with the upstream's own body, byte for byte, before a stream begins as well."""

    def refusal(client: openai.OpenAI) -> tuple[int, bytes]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**OVERFLOW, stream=stream)
        return caught.value.status_code, caught.value.response.content

    assert b"exceeds the available context size" in refusal(through)[1]
    assert refusal(through) == refusal(direct)


def test_models_lists_what_the_deployment_file_offers(through: openai.OpenAI) -> None:
    """GET /v1/models names the models of the deployment file."""
    assert {"tiny-random", "tiny-embedding"} <= {model.id for model in through.models.list()}


def test_the_raw_answer_can_be_read_by_the_sdk(through: openai.OpenAI) -> None:
    """Behind with_raw_response are the upstream's JSON, a content type, and an exchange id of ours."""
    raw = through.chat.completions.with_raw_response.create(**CHATS["plain"])
    assert raw.headers["content-type"].startswith("application/json")
    assert [name for name in raw.headers if name.startswith("x-weir-")]
    assert raw.parse().choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_the_bytes_are_the_upstreams(weir: Weir, llama: Llama, stream: bool) -> None:
    """An answer is passed, not rebuilt: byte for byte llama.cpp's, but for ids, times and our last comment."""
    asked = CHATS["logprobs"] | (STREAMED if stream else {}) | {"cache_prompt": False}
    del asked["extra_body"]

    def answer(url: str) -> bytes:
        headers = {"content-type": "application/json", "authorization": "Bearer sk-of-the-client"}
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as got:
            return VARYING.sub(b"", got.read())

    through = answer(weir.url)
    if stream:
        through, done, after = through.partition(b"data: [DONE]\n\n")
        assert all(line.startswith(b":") for line in after.split(b"\n") if line)
        through += done
    assert through == answer(llama.url)


async def test_many_at_once_each_get_their_own(weir: Weir) -> None:
    """Twelve streams over two slots of the upstream: all complete, each with the tokens that it asked for."""

    async def tokens(client: openai.AsyncOpenAI, count: int) -> int | None:
        asked = {"model": "tiny-random", "messages": HELLO, "max_tokens": count, "extra_body": {"ignore_eos": True}}
        usages = [chunk.usage async for chunk in await client.chat.completions.create(**asked, **STREAMED)]
        return usages[-1] and usages[-1].completion_tokens

    async with openai.AsyncOpenAI(base_url=weir.url, api_key="none", max_retries=0) as client:
        counts = range(10, 22)
        assert await asyncio.gather(*(tokens(client, count) for count in counts)) == list(counts)


def test_extra_fields_reach_the_upstream(direct: openai.OpenAI, through: openai.OpenAI) -> None:
    """A field that only llama.cpp knows (a GBNF grammar) takes effect through Weir."""
    asked: Any = {"model": "tiny-random", "messages": HELLO, "extra_body": {"grammar": 'root ::= "yes"'}}
    assert direct.chat.completions.create(**asked).choices[0].message.content == "yes"
    assert through.chat.completions.create(**asked).choices[0].message.content == "yes"
