"""The ways to ask: every metered endpoint of the table, unary and, where it can be, streamed.

A seed draws the words, the length and the options of each request. The tenant's name is in its prompt, and the
simulator answers it with that tenant's own word: so an answer that reached another would be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import orjson

Shape = Literal["json", "events", "blob"]
TENANTS = ("heron", "otter", "perch", "trout")
WORDS = ["the", "river", "runs", "over", "a", "weir", "and", "naïve", "河", "stones", "🙂", "under", "old", "bridges"]
MARK = "----weir-faults-7c1d"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to ask.

    `done` is what only a whole stream holds; `early`: how many events come before its last; `unpriced`: where no usage
    is told, nobody knows what it cost (sound that is sold by the token).
    """

    name: str
    path: str
    make: Callable[[Random, str], dict[str, Any]]
    shape: Shape = "json"
    done: bytes = b""
    early: int = 0
    file: tuple[str, str] | None = None
    unpriced: bool = False

    @property
    def anthropic(self) -> bool:
        return self.path == "/v1/messages"

    @property
    def speaks(self) -> bool:
        """Whether its answer is text, in which the tenant's word can be looked for."""
        return self.path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")

    def request(self, random: Random, tenant: str) -> tuple[bytes, str]:
        """A body and its type."""
        fields = self.make(random, tenant)
        if self.file is None:
            return orjson.dumps(fields), "application/json"
        parts = [
            f'--{MARK}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        name, filename = self.file
        head = f'--{MARK}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode()
        data = random.randbytes(random.choice((100, 5000, 70_000)))
        return b"".join(parts) + head + data + f"\r\n--{MARK}--\r\n".encode(), f"multipart/form-data; boundary={MARK}"

    def __str__(self) -> str:
        return self.name


def question(tenant: str) -> str:
    return f"What is the word of {tenant}?"


def answer(tenant: str) -> str:
    """What only this tenant may hear."""
    return f"It is {secret(tenant)}, as always, for whoever asks at the old bridge over the weir."


def secret(tenant: str) -> str:
    """One token of the simulator's, so that no event splits it."""
    return f"{tenant}42"


def _prose(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=random.choice((3, 40, 400))))


def _messages(random: Random, tenant: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{_prose(random)} {question(tenant)}"}]


def _chat(random: Random, tenant: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": "gpt-4o-mini", "messages": _messages(random, tenant)}
    if random.random() < 0.5:
        fields["max_tokens"] = random.choice((64, 200))
    return fields


def _chat_stream(random: Random, tenant: str) -> dict[str, Any]:
    fields = {**_chat(random, tenant), "stream": True}
    if random.random() < 0.5:
        fields["stream_options"] = {"include_usage": True}
    return fields


def _completion(random: Random, tenant: str) -> dict[str, Any]:
    prompt = f"{_prose(random)} {question(tenant)}"
    return {"model": "gpt-3.5-turbo-instruct", "prompt": prompt, "max_tokens": random.choice((64, 200))}


def _response(random: Random, tenant: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": "gpt-4o-mini", "input": f"{_prose(random)} {question(tenant)}"}
    if random.random() < 0.5:
        fields["max_output_tokens"] = 200
    return fields


def _message(random: Random, tenant: str) -> dict[str, Any]:
    return {"model": "claude-sonnet-4-5", "max_tokens": random.choice((64, 200)), "messages": _messages(random, tenant)}


def _embedding(random: Random, tenant: str) -> dict[str, Any]:
    return {"model": "text-embedding-3-small", "input": random.choice((_prose(random), [_prose(random), tenant]))}


def _image(random: Random, tenant: str) -> dict[str, Any]:
    return {"model": "gpt-image-1", "prompt": _prose(random), "quality": random.choice(("low", "medium"))}


def _speech(random: Random, tenant: str) -> dict[str, Any]:
    return {"model": "tts-1", "voice": "alloy", "input": _prose(random)[:200]}


def _transcription(random: Random, tenant: str) -> dict[str, Any]:
    return {"model": "gpt-4o-transcribe"}


def _with(make: Callable[[Random, str], dict[str, Any]], **more: Any) -> Callable[[Random, str], dict[str, Any]]:
    return lambda random, tenant: {**make(random, tenant), **more}


_IMAGES = {"stream": True, "partial_images": 3}
_PICTURE, _SOUND = ("image", "river.png"), ("file", "river.wav")

KINDS = (
    Kind("chat", "/v1/chat/completions", _chat),
    Kind("chat, streamed", "/v1/chat/completions", _chat_stream, "events", b"[DONE]", 8),
    Kind("completions", "/v1/completions", _completion),
    Kind("completions, streamed", "/v1/completions", _with(_completion, stream=True), "events", b"[DONE]", 8),
    Kind("responses", "/v1/responses", _response),
    Kind("responses, streamed", "/v1/responses", _with(_response, stream=True), "events", b"response.completed", 8),
    Kind("responses.compact", "/v1/responses/compact", _response),
    Kind("messages", "/v1/messages", _message),
    Kind("messages, streamed", "/v1/messages", _with(_message, stream=True), "events", b"message_stop", 8),
    Kind("embeddings", "/v1/embeddings", _embedding),
    Kind("images.generations", "/v1/images/generations", _image),
    Kind(
        "images.generations, streamed",
        "/v1/images/generations",
        _with(_image, **_IMAGES),
        "events",
        b"image_generation.completed",
        3,
    ),
    Kind("images.edits", "/v1/images/edits", _image, file=_PICTURE),
    Kind(
        "images.edits, streamed",
        "/v1/images/edits",
        _with(_image, stream="true", partial_images=3),
        "events",
        b"image_generation.completed",
        3,
        _PICTURE,
    ),
    Kind("images.variations", "/v1/images/variations", _with(_image), file=_PICTURE),
    Kind("audio.speech", "/v1/audio/speech", _speech, "blob"),
    Kind(
        "audio.speech, streamed",
        "/v1/audio/speech",
        _with(_speech, model="gpt-4o-mini-tts", stream_format="sse"),
        "events",
        b"speech.audio.done",
        2,
        unpriced=True,
    ),
    Kind("audio.transcriptions", "/v1/audio/transcriptions", _transcription, file=_SOUND),
    Kind(
        "audio.transcriptions, streamed",
        "/v1/audio/transcriptions",
        _with(_transcription, stream="true"),
        "events",
        b"transcript.text.done",
        8,
        _SOUND,
    ),
    Kind("audio.translations", "/v1/audio/translations", _with(_transcription, model="whisper-1"), file=_SOUND),
)
