"""The endpoints of the OpenAI-compatible API: which are understood, metered, and which keep objects upstream.

Pure: a table and a look-up. Any other path under /v1/ passes through as `other`.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Endpoint(msgspec.Struct, frozen=True):
    """What is known of an endpoint.

    `operation` is OpenTelemetry's gen_ai.operation.name; `dialect` says how its bodies are read (None: not at all);
    `parsed`: its request is a JSON object, gathered whole and scanned; `metered`: its use costs money that is
    accounted for; `stateful`: it makes or reads objects kept at the upstream; `include_usage`: its streams tell usage
    only if `stream_options.include_usage` asks for it.
    """

    name: str
    operation: str = ""
    dialect: str | None = None
    parsed: bool = False
    metered: bool = False
    stateful: bool = False
    include_usage: bool = False


def _understood(name: str, operation: str, dialect: str, include_usage: bool = False) -> Endpoint:
    return Endpoint(name, operation, dialect, parsed=True, metered=True, include_usage=include_usage)


def _uploaded(name: str, operation: str, dialect: str) -> Endpoint:
    """The request is a form that streams through; the answer is JSON or events that tell usage."""
    return Endpoint(name, operation, dialect, metered=True)


_POSTED: Final = {
    "/v1/chat/completions": _understood("chat.completions", "chat", "chat", include_usage=True),
    "/v1/completions": _understood("completions", "text_completion", "chat", include_usage=True),
    "/v1/responses": _understood("responses", "chat", "responses"),
    "/v1/embeddings": _understood("embeddings", "embeddings", "embeddings"),
    "/v1/images/generations": _understood("images.generations", "generate_content", "images"),
    "/v1/images/edits": _uploaded("images.edits", "generate_content", "images"),
    "/v1/images/variations": _uploaded("images.variations", "generate_content", "images"),
    "/v1/audio/speech": _understood("audio.speech", "generate_content", "audio"),
    "/v1/audio/transcriptions": _uploaded("audio.transcriptions", "generate_content", "audio"),
    "/v1/audio/translations": _uploaded("audio.translations", "generate_content", "audio"),
    "/v1/messages": _understood("messages", "chat", "anthropic"),
    "/v1/messages/count_tokens": Endpoint("messages.count_tokens", parsed=True),
    "/v1/responses/input_tokens": Endpoint("responses.input_tokens", parsed=True),
    "/v1/moderations": Endpoint("moderations", "moderation", parsed=True),
}

_STATEFUL: Final = (
    "assistants",
    "batches",
    "chatkit",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "organization",
    "projects",
    "realtime",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
)
_FAMILIES: Final = {
    **{name: Endpoint(name, stateful=True) for name in _STATEFUL},
    "responses": Endpoint("responses.stored", stateful=True),
    "chat": Endpoint("chat.completions.stored", stateful=True),
    "messages": Endpoint("messages.batches", stateful=True),
    "models": Endpoint("models"),
}
_OTHER: Final = Endpoint("other")


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request; None for a path outside /v1/."""
    if method == "POST" and (found := _POSTED.get(path)) is not None:
        return found
    if not path.startswith("/v1/"):
        return None
    family = path.split("/", 3)[2]
    return _FAMILIES.get(family, _OTHER)


def all_endpoints() -> list[Endpoint]:
    """Every endpoint that has a name, for documentation and completion."""
    return [*_POSTED.values(), *_FAMILIES.values(), _OTHER]
