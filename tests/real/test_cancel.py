"""A client that leaves: Weir hangs up on llama.cpp within a second, and llama.cpp stops where it looks.

llama.cpp looks at its client only when it has something to write: after each token of a stream, and between the
batches of a prompt if asked to report progress; a unary answer it computes to its end. So where it can stop, its
metrics are asked; where it can't, the kernel is asked whether anybody is still connected to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import openai
import pytest

from tests.patience import PATIENCE_S

from .llama import Llama
from .process import until
from .weir import Weir

WITHIN_S, EVERY_S = 1.0, 0.02
LONG_PROMPT = [{"role": "user", "content": "so " * 8_000}]  # two seconds of reading, on this model, for one thread
SHORT_PROMPT = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def alone(lonely: Llama) -> Iterator[Llama]:
    """llama.cpp with no client but one through Weir, and nothing to do before and after."""
    until(lambda: not lonely.busy(), what="llama.cpp idle before the test")
    yield lonely
    until(lambda: not lonely.busy(), what="llama.cpp idle after the test")


def soon(look: Callable[[], bool], what: str) -> None:
    """Within a second, by looks: a machine that takes long for one shows nothing that Weir does."""
    for _ in range(round(WITHIN_S / EVERY_S)):
        if look():
            return
        time.sleep(EVERY_S)
    raise AssertionError(f"{what}: not within {WITHIN_S} s")


@pytest.fixture
def patient(weir: Weir) -> Iterator[openai.OpenAI]:
    """openai-python that leaves when it is told to."""
    with openai.OpenAI(base_url=weir.url, api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
def client(weir: Weir) -> Iterator[openai.OpenAI]:
    """openai-python with a second's patience."""
    with openai.OpenAI(base_url=weir.url, api_key="none", max_retries=0, timeout=1.0) as client:
        yield client


def test_a_stream_that_is_left_is_stopped(alone: Llama, patient: openai.OpenAI) -> None:
    """A client that closes an endless stream after a few tokens frees the upstream within a second."""
    endless = {"model": "tiny-lonely", "messages": SHORT_PROMPT, "extra_body": {"ignore_eos": True}}
    with patient.chat.completions.create(**endless, stream=True) as stream:
        for _, _chunk in zip(range(5), stream, strict=False):
            pass
        assert alone.busy()
    soon(lambda: not alone.busy(), "llama.cpp idle after the client left")


def test_a_stream_that_is_left_before_its_first_token_is_stopped(alone: Llama, patient: openai.OpenAI) -> None:
    """A client that leaves while the upstream still reads the prompt frees it within a second."""
    progress = {"return_progress": True, "cache_prompt": False}
    asked = {"model": "tiny-lonely", "messages": LONG_PROMPT, "max_tokens": 4, "extra_body": progress}
    with patient.chat.completions.create(**asked, stream=True) as stream:
        first = next(iter(stream))
        assert not first.choices or not first.choices[0].delta.content
        assert alone.busy()
    soon(lambda: not alone.busy(), "llama.cpp idle after the client left")


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_a_silent_upstream_is_hung_up_on(alone: Llama, client: openai.OpenAI, stream: bool) -> None:
    """A client that gives up before any byte of an answer takes Weir's connection to the upstream with it."""
    asked = {"model": "tiny-lonely", "messages": LONG_PROMPT, "max_tokens": 4, "extra_body": {"cache_prompt": False}}
    with pytest.raises(Exception, match="timed out"):  # openai's before the headers, its transport's after them
        list(client.chat.completions.create(**asked, stream=stream))
    assert alone.busy(), "it was still reading the prompt when the client gave up"
    soon(lambda: not alone.peers(), "nobody connected to llama.cpp")


def test_a_unary_answer_that_is_left_is_hung_up_on(alone: Llama, client: openai.OpenAI) -> None:
    """A client that gives up on an answer being written takes Weir's connection to the upstream with it."""
    long = {"model": "tiny-lonely", "messages": SHORT_PROMPT, "max_tokens": 5_000, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(**long)
    soon(lambda: not alone.peers(), "nobody connected to llama.cpp")


def test_an_answer_that_is_read_to_its_end_keeps_the_connection(alone: Llama, patient: openai.OpenAI) -> None:
    """Hanging up is for those who leave: after a whole answer the upstream's connection stays for the next."""
    asked = {"model": "tiny-lonely", "messages": SHORT_PROMPT, "max_tokens": 2}
    patient.chat.completions.create(**asked)
    before = alone.peers()
    patient.chat.completions.create(**asked)
    assert len(before) == 1 and alone.peers() == before
