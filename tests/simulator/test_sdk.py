"""The openai SDK against the simulator: every endpoint, read by the SDK's own types."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from proxy.simulator import Simulator

ASK = [{"role": "user", "content": "what is 6*7?"}]


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[AsyncOpenAI]:
    """An SDK client without retries."""
    async with AsyncOpenAI(base_url=simulator.url, api_key="sk-test-key", max_retries=0) as made:
        yield made


class Sum(BaseModel):
    value: int
    steps: list[str]


async def test_chat(client: AsyncOpenAI) -> None:
    """Streamed and not, the SDK reads the same answer."""
    answer = await client.chat.completions.create(model="o4-mini", messages=ASK)  # type: ignore[arg-type]
    stream = await client.chat.completions.create(model="o4-mini", messages=ASK, stream=True)  # type: ignore[arg-type]
    told = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert told == answer.choices[0].message.content == "6 * 7 = 42."


async def test_structured_output(client: AsyncOpenAI) -> None:
    """`parse` gets an object of its type, with the right value in it."""
    parsed = await client.chat.completions.parse(model="o4-mini", messages=ASK, response_format=Sum)  # type: ignore[arg-type]
    message = parsed.choices[0].message.parsed
    assert message is not None
    assert message.value == 42


async def test_completions(client: AsyncOpenAI) -> None:
    """Several prompts, n each; streamed, the text is the same."""
    answer = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt=["one", "two"], n=2, max_tokens=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    stream = await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="one", max_tokens=5, stream=True)
    streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert (
        streamed
        == (await client.completions.create(model="gpt-3.5-turbo-instruct", prompt="one", max_tokens=5)).choices[0].text
    )


async def test_responses(client: AsyncOpenAI, simulator: Simulator) -> None:
    """A response has items and usage, can be fetched and deleted, and its stream accumulates to the same text."""
    response = await client.responses.create(model="o4-mini", input="what is 6*7?")
    assert response.output_text == "6 * 7 = 42."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert (await client.responses.retrieve(response.id)).output_text == response.output_text
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    async with client.responses.stream(model="o4-mini", input="what is 6*7?") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == response.output_text
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert simulator.invoice().total.output == 2 * response.usage.output_tokens


async def test_responses_numbers_and_tools(client: AsyncOpenAI) -> None:
    """Events are numbered without gaps; function calls stream their arguments; a cap makes the response incomplete."""
    tool = {
        "type": "function",
        "name": "get_weather",
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    stream = await client.responses.create(model="gpt-4o", input="the weather?", tools=[tool], stream=True)  # type: ignore[list-item]
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    [done] = [e.arguments for e in events if e.type == "response.function_call_arguments.done"]
    assert deltas == done
    capped = await client.responses.create(model="gpt-4o", input="of rivers", max_output_tokens=16)
    assert capped.status == "incomplete"
    assert capped.incomplete_details is not None
    assert capped.incomplete_details.reason == "max_output_tokens"


async def test_embeddings(client: AsyncOpenAI, simulator: Simulator) -> None:
    """Vectors are of length 1, alike for similar texts, and the same as floats and as base64."""
    texts = ["how do I cancel my plan", "how can I cancel my plan?", "the river is cold"]
    coded = (await client.embeddings.create(model="text-embedding-3-small", input=texts)).data
    plain = await client.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="float")
    first, second, third = (entry.embedding for entry in plain.data)
    assert [entry.embedding for entry in coded] == [first, second, third]
    assert (len(first), math.isclose(math.hypot(*first), 1, rel_tol=1e-5)) == (1536, True)
    alike, unlike = (sum(a * b for a, b in zip(first, other, strict=True)) for other in (second, third))
    assert alike > 0.5 > 0.2 > unlike
    assert plain.usage.prompt_tokens * 2 == simulator.invoice().total.input
    small = await client.embeddings.create(model="text-embedding-3-small", input=[1, 2, 3], dimensions=8)
    assert (len(small.data[0].embedding), small.usage.prompt_tokens) == (8, 3)


async def test_images(client: AsyncOpenAI) -> None:
    """A PNG in base64 with usage; streamed, partial pictures come first."""
    answer = await client.images.generate(model="gpt-image-1", prompt="a weir", n=2)
    assert answer.data is not None
    assert [(entry.b64_json or "")[:8] for entry in answer.data] == ["iVBORw0K"] * 2
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + 2 * 1056
    stream = await client.images.generate(model="gpt-image-1", prompt="a weir", stream=True, partial_images=2)
    kinds = [event.type async for event in stream]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


async def test_image_edits(client: AsyncOpenAI, simulator: Simulator) -> None:
    """A picture in by multipart costs input tokens of its kind."""
    picture = ("a.png", b"\x89PNG" * 100, "image/png")
    answer = await client.images.edit(model="gpt-image-1", prompt="a weir", image=picture, n=2)
    assert answer.data is not None
    assert len(answer.data) == 2
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == simulator.invoice().total.input_image > 0


async def test_a_large_image_is_one_large_event(client: AsyncOpenAI) -> None:
    """High quality makes an event of more than 64 KiB."""
    stream = await client.images.generate(model="gpt-image-1", prompt="a weir", stream=True, quality="high")
    [event] = [event async for event in stream]
    assert len(event.b64_json) > 65_536


async def test_speech_and_transcription(client: AsyncOpenAI, simulator: Simulator) -> None:
    """Sound out and sound in, with usage by tokens or by duration, streamed too."""
    sound = await client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hello river")
    assert sound.response.headers["content-type"] == "audio/mpeg"
    assert len(sound.content) > 1000
    upload = ("a.mp3", sound.content * 10)
    heard = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload)
    assert heard.usage is not None
    assert heard.usage.type == "tokens"
    whispered = await client.audio.transcriptions.create(model="whisper-1", file=upload)
    assert whispered.usage is not None
    assert whispered.usage.type == "duration"
    stream = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == heard.text
    assert simulator.invoice().of("gpt-4o-transcribe").requests == 2


async def test_files(client: AsyncOpenAI) -> None:
    """A file comes back as it went, is listed, and can be deleted."""
    content = b"\r\n--x\x00" * 400_000
    file = await client.files.create(file=("a.bin", content), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(content), "a.bin", "batch")
    assert (await client.files.content(file.id)).content == content
    assert [entry.id for entry in (await client.files.list()).data] == [file.id]
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_a_large_upload_is_not_held(client: AsyncOpenAI, simulator: Simulator) -> None:
    """32 MiB pass through, are hashed, and are not in memory afterwards."""
    content = bytes(1 << 25)
    file = await client.files.create(file=("big", io.BytesIO(content)), purpose="batch")
    [seen] = simulator.requests
    assert file.bytes == len(content)
    assert seen.length > len(content)
    assert (seen.body, len(seen.sha256)) == (b"", 64)
    fetched = await client.files.content(file.id)
    assert hashlib.sha256(fetched.content).digest() == hashlib.sha256(content).digest()


async def test_the_rest(client: AsyncOpenAI) -> None:
    """Moderation, models, and OpenAI's 404 for anything unknown."""
    verdict = await client.moderations.create(input=["peace", "violence"])
    assert [result.flagged for result in verdict.results] == [False, True]
    assert "gpt-4o" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("sim-small")).owned_by == "weir"
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        await client.fine_tuning.jobs.retrieve("ftjob-1")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate-limit", openai.RateLimitError),
        ("unauthorized", openai.AuthenticationError),
        ("forbidden", openai.PermissionDeniedError),
        ("unprocessable", openai.UnprocessableEntityError),
        ("overloaded-529", openai.InternalServerError),
        ("reset-after-request", openai.APIConnectionError),
        ("wrong-length", openai.APIConnectionError),
    ],
)
async def test_faults_become_the_sdks_errors(client: AsyncOpenAI, fault: str, error: type[Exception]) -> None:
    """The SDK sees each fault as the error that it has for it."""
    with pytest.raises(error):
        await client.chat.completions.create(model="gpt-4o", messages=ASK, extra_headers={"x-sim-fault": fault})  # type: ignore[arg-type]


async def test_an_error_event_is_an_error(client: AsyncOpenAI) -> None:
    """An error within a stream raises after what came before it."""
    stream = await client.chat.completions.create(
        model="gpt-4o",
        messages=ASK,  # type: ignore[arg-type]
        stream=True,
        extra_headers={"x-sim-fault": "mid-error:2"},
    )
    seen = 0
    with pytest.raises(openai.APIError):
        async for _ in stream:
            seen += 1
    assert seen == 2
