"""What a request's body asks for, as far as it moves money: choices, caps, streaming, tier. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from proxy.body import Body
from proxy.errors import WeirError

MOST_CHOICES: Final = 128  # OpenAI's own limit
_CAPS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_CAP_OF: Final = {"chat.completions": "max_completion_tokens", "responses": "max_output_tokens"}
_LARGEST: Final = 2**31 - 1


class RequestFacts(msgspec.Struct, frozen=True):
    """`n` choices, at most `output_cap` tokens each (None: the model's own maximum)."""

    n: int = 1
    output_cap: int | None = None
    stream: bool = False
    service_tier: str | None = None


def facts(endpoint: str, body: Body) -> RequestFacts:
    """Reads a request. Raises WeirError 400, naming `param`, for what can't be bounded."""
    get = body.getter
    n = 1 if (value := get("n")) is None else _whole(value, "n", 1, MOST_CHOICES)
    cap = None
    for name in _CAPS:
        if (value := get(name)) is not None:
            found = _whole(value, name, 0 if name == "max_tokens" else 1, _LARGEST)
            cap = found if cap is None or found > cap else cap
    stream = get("stream")
    if stream is not None and type(stream) is not bool:
        raise _invalid("stream", "`stream` must be true or false.")
    tier = get("service_tier")
    if tier is not None and not isinstance(tier, str):
        raise _invalid("service_tier", "`service_tier` must be a string.")
    if endpoint == "messages" and get("speed") == "fast":
        tier = "fast"  # as the answer names it: Anthropic's fast mode costs more on any tier
    if endpoint == "audio.speech" and get("stream_format") == "sse":
        stream = True
    return RequestFacts(n, cap, stream is True, tier)


def capped(endpoint: str, body: Body, cap: int) -> dict[str, int]:
    """The fields to set so that an answer has at most `cap` tokens: those that the client gave, else the dialect's."""
    given = [name for name in _CAPS if body.get(name) is not None]
    return dict.fromkeys(given or [_CAP_OF.get(endpoint, "max_tokens")], cap)


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _invalid(name, f"`{name}` must be a whole number from {least} to {most}.")
    return value


def _invalid(param: str, message: str) -> WeirError:
    return WeirError(400, message, param=param, code="invalid_value")
