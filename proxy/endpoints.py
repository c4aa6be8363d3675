"""The endpoints of the OpenAI-compatible API and Anthropic's: which are understood, which keep objects upstream.

Rules: pure, a table and a look-up. A path that isn't in the table passes through as `other`. What isn't known to be
without state counts as stateful: with a shared key it is denied by default, so a new endpoint, or a known one spelled
so that only the upstream would recognise it, opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import msgspec


class Endpoint(msgspec.Struct, frozen=True):
    """What is known of an endpoint.

    `operation` is OpenTelemetry's gen_ai.operation.name; `dialect` says how its bodies are read (None: not at all);
    `parsed`: its request is a JSON object, gathered whole and scanned; `metered`: its use costs money that is accounted
    for; `stateful`: it makes or reads objects kept at the upstream; `include_usage`: its streams tell usage only if
    `stream_options.include_usage` asks for it.
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
    "/v1/responses/compact": _understood("responses.compact", "chat", "responses"),
    "/v1/responses/input_tokens": Endpoint("responses.input_tokens", parsed=True),
    "/v1/embeddings": _understood("embeddings", "embeddings", "embeddings"),
    "/v1/images/generations": _understood("images.generations", "generate_content", "images"),
    "/v1/images/edits": _uploaded("images.edits", "generate_content", "images"),
    "/v1/images/variations": _uploaded("images.variations", "generate_content", "images"),
    "/v1/audio/speech": _understood("audio.speech", "generate_content", "audio"),
    "/v1/audio/transcriptions": _uploaded("audio.transcriptions", "generate_content", "audio"),
    "/v1/audio/translations": _uploaded("audio.translations", "generate_content", "audio"),
    "/v1/messages": _understood("messages", "chat", "anthropic"),
    "/v1/messages/count_tokens": Endpoint("messages.count_tokens", parsed=True),
    "/v1/moderations": Endpoint("moderations", "moderation", parsed=True),
}

# What stands behind /v1/: collections of objects at the upstream, with everything below them.
_STATEFUL: Final = (
    "agents",
    "assistants",
    "batches",
    "chatkit",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "live",
    "organization",
    "organizations",
    "projects",
    "realtime",
    "safety",
    "skills",
    "threads",
    "uploads",
    "vaults",
    "vector_stores",
    "videos",
    "webhook_endpoints",
)
_COLLECTIONS: Final = {
    **{name: Endpoint(name, stateful=True) for name in _STATEFUL},
    "chat": Endpoint("chat.completions.stored", stateful=True),
    "messages": Endpoint("messages.batches", stateful=True),
    "models": Endpoint("models.tuned", stateful=True),
    "responses": Endpoint("responses.stored", stateful=True),
}
_MODELS: Final = Endpoint("models")
_OTHER: Final = Endpoint("other", stateful=True)

_STORED_BY_NAME: Final = ("previous_response_id", "conversation", "background")


def endpoint_of(method: str, path: str) -> Endpoint | None:
    """The endpoint of a request; None for a path outside /v1/. The path comes without its query, as it was sent."""
    if method == "POST" and (found := _POSTED.get(path) or _POSTED.get(path.removesuffix("/"))) is not None:
        return found  # many servers take a slash at the end for none, and bill it as that
    if not path.startswith("/v1/"):
        return None
    if (path == "/v1/models" or path.startswith("/v1/models/")) and method in ("GET", "HEAD") and _is_plain(path):
        return _MODELS
    return _COLLECTIONS.get(path.split("/", 3)[2], _OTHER)


def _is_plain(path: str) -> bool:
    """Whether a path means the same to everybody: `/v1/models/../files` may be files upstream (RFC 3986, 5.2.4)."""
    decoded = unquote(path) if "%" in path else path
    return "\\" not in decoded and not any(segment in (".", "..") for segment in decoded.split("/"))


def uses_stored(endpoint: Endpoint, field: Callable[[str], Any]) -> bool:
    """Whether a request uses objects kept at the upstream though its endpoint needn't: names one, or runs on there.

    `field` reads a top-level field of the body. A response is kept unless `store` is false, under an id that nobody can
    guess: that alone isn't use.
    """
    return endpoint.name.startswith("responses") and any(field(name) for name in _STORED_BY_NAME)


def all_endpoints() -> list[Endpoint]:
    """Every endpoint that has a name, for documentation and completion."""
    return [*_POSTED.values(), *_COLLECTIONS.values(), _MODELS, _OTHER]


def understood_paths() -> dict[str, Endpoint]:
    """The paths of what is POSTed and known one by one."""
    return dict(_POSTED)
