"""What Weir writes down, against what the upstream counted: tokens of a real model, and the simulator's own invoice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from hashlib import sha256
from typing import Any

import openai
import pytest

from .process import until
from .questions import CHATS, COMPLETION, RESPONSE
from .simulator import Simulator
from .weir import Weir

PRICED: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "The capital of Norway?"}]}
NANODOLLARS_A_TOKEN = {"input": Fraction(150), "output": Fraction(600)}  # gpt-4o-mini: 0.15 and 0.60 USD a million


@pytest.fixture
def patient(weir: Weir) -> Iterator[openai.OpenAI]:
    """openai-python as it comes: up to two retries."""
    with openai.OpenAI(base_url=weir.url, api_key="sk-of-the-client") as client:
        yield client


def settlements(weir: Weir, *exchanges: str) -> list[dict[str, Any]]:
    """The journal's `settled` records of exchanges of one attempt each, as `weir journal tail --json` prints them."""

    def look() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in weir.command("journal", "tail", "--json", "-n", "500").splitlines()]
        found = {record["exchange"]: record for record in records if record["event"] == "settled"}
        return [found[exchange] for exchange in exchanges] if found.keys() >= set(exchanges) else []

    return until(look, every_s=0.1, what=f"the settlement of {exchanges}")


def settled(weir: Weir, exchange: str) -> dict[str, Any]:
    return settlements(weir, exchange)[0]


ASKED: dict[str, Callable[[openai.OpenAI], Any]] = {
    "chat": lambda client: client.chat.completions.with_raw_response.create(**CHATS["plain"]),
    "stream": lambda client: client.chat.completions.with_raw_response.create(**CHATS["plain"], stream=True),
    "two": lambda client: client.chat.completions.with_raw_response.create(**CHATS["two"], stream=True),
    "completion": lambda client: client.completions.with_raw_response.create(**COMPLETION, stream=True),
    "response": lambda client: client.responses.with_raw_response.create(**RESPONSE),
    "response-stream": lambda client: client.responses.with_raw_response.create(**RESPONSE, stream=True),
}
COUNTED: dict[str, Callable[[openai.OpenAI], Any]] = {
    "chat": lambda client: client.chat.completions.create(**CHATS["plain"]).usage,
    "two": lambda client: client.chat.completions.create(**CHATS["two"]).usage,
    "completion": lambda client: client.completions.create(**COMPLETION).usage,
    "response": lambda client: client.responses.create(**RESPONSE).usage,
}
SAME = {"stream": "chat", "response-stream": "response"}


@pytest.mark.parametrize("name", ASKED)
def test_the_journal_has_the_tokens_that_llama_counted(
    weir: Weir, direct: openai.OpenAI, through: openai.OpenAI, name: str
) -> None:
    """Whatever the endpoint, streamed or not, asked for usage or not: the journal has the upstream's own count."""
    raw = ASKED[name](through)
    answer = raw.parse()
    if isinstance(answer, openai.Stream):
        assert list(answer)
    record = settled(weir, raw.headers["x-weir-exchange"])
    usage = COUNTED[SAME.get(name, name)](direct).model_dump()
    expected = (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
    )
    assert (record["tokens"]["input_tokens"], record["tokens"]["output_tokens"]) == expected
    assert (record["outcome"], record["status"], record["known"]) == ("complete", 200, "unpriced")


def test_embeddings_are_metered(weir: Weir, through: openai.OpenAI) -> None:
    """The journal has the input tokens of embeddings, and no output."""
    raw = through.embeddings.with_raw_response.create(model="tiny-embedding", input=["one", "two words"])
    usage = raw.parse().usage
    assert usage is not None
    tokens = settled(weir, raw.headers["x-weir-exchange"])["tokens"]
    assert usage.prompt_tokens > 0
    assert (tokens["input_tokens"], tokens.get("output_tokens") or 0) == (usage.prompt_tokens, 0)


def test_the_tail_shows_the_exchange_to_people(weir: Weir, through: openai.OpenAI) -> None:
    """`weir journal tail` has a line with the exchange, the served model, its tokens and `complete`."""
    raw = through.chat.completions.with_raw_response.create(**CHATS["plain"])
    usage = raw.parse().usage
    exchange = raw.headers["x-weir-exchange"]
    settled(weir, exchange)
    [line] = [line for line in weir.command("journal", "tail", "-n", "50").splitlines() if exchange in line]
    words = line.split()
    assert usage is not None
    assert [str(usage.prompt_tokens), str(usage.completion_tokens)] == words[3:5]
    assert words[2] == "tiny-random" and "complete" in words


def test_why_tells_of_the_exchange(weir: Weir, through: openai.OpenAI) -> None:
    """`weir why ID` finds the exchange that the header names."""
    raw = through.chat.completions.with_raw_response.create(**CHATS["plain"])
    exchange = raw.headers["x-weir-exchange"]
    settled(weir, exchange)
    told = json.loads(weir.command("why", exchange, "--json"))
    assert told["exchange"] == exchange and len(told["attempts"]) == 1


def test_the_journal_agrees_with_the_invoice(weir: Weir, simulator: Simulator) -> None:
    """Ten answers, streamed and not: the journal's tokens are the invoice's, and the cost is tokens times price."""
    key = "sk-invoice-of-its-own"
    exchanges = []
    with openai.OpenAI(base_url=weir.url, api_key=key, max_retries=0) as client:
        for number in range(10):
            raw = client.chat.completions.with_raw_response.create(**PRICED, stream=number % 2 == 1, user=f"u{number}")
            answer = raw.parse()
            list(answer)  # of a stream its chunks, of a whole answer its fields
            exchanges.append(raw.headers["x-weir-exchange"])
    records = settlements(weir, *exchanges)
    label = f"{key[:6]}…{sha256(key.encode()).hexdigest()[:8]}"
    [row] = [row for row in simulator.told("invoice")["rows"] if row["key"] == label]
    spent = {side: sum(record["tokens"][f"{side}_tokens"] for record in records) for side in NANODOLLARS_A_TOKEN}
    assert row["requests"] == 10
    assert spent == {"input": row["input"], "output": row["output"]}
    assert sum(record["nanodollars"] for record in records) == sum(
        spent[side] * price for side, price in NANODOLLARS_A_TOKEN.items()
    )
    assert {record["known"] for record in records} == {"observed"}


@pytest.mark.parametrize("fault", ["html-200", "empty-200", "truncated-json", "wrong-length"])
def test_what_may_be_billed_is_asked_once(patient: openai.OpenAI, simulator: Simulator, fault: str) -> None:
    """Where the upstream may have charged, the answer tells the SDK not to retry, and it doesn't."""
    before = simulator.requests()
    with pytest.raises(openai.InternalServerError) as caught:
        patient.chat.completions.create(**PRICED, extra_headers={"x-sim-fault": fault})
    assert caught.value.status_code == 502
    assert simulator.requests() == before + 1


def test_a_rate_limit_is_retried_by_the_sdk(patient: openai.OpenAI, simulator: Simulator) -> None:
    """A 429 passes with its headers, so the SDK waits and asks again, three times in all."""
    before = simulator.requests()
    with pytest.raises(openai.RateLimitError) as caught:
        patient.chat.completions.create(**PRICED, extra_headers={"x-sim-fault": "rate-limit:0"})
    assert caught.value.response.headers["retry-after"] == "0"
    assert simulator.requests() == before + 3


def test_a_stream_that_is_left_is_settled(weir: Weir, through: openai.OpenAI) -> None:
    """A stream left after its first chunk still gets a settlement, as cut short, with its input tokens."""
    endless = {**CHATS["plain"], "max_tokens": 20_000, "extra_body": {"ignore_eos": True}}
    raw = through.chat.completions.with_raw_response.create(**endless, stream=True)
    stream = raw.parse()
    assert next(iter(stream))
    stream.close()
    record = settled(weir, raw.headers["x-weir-exchange"])
    assert record["outcome"] in {"aborted", "partial"}
    assert record["tokens"]["input_tokens"] > 0
