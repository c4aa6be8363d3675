"""What a request needs of a model: features, and room. Pure."""

from __future__ import annotations

from typing import Any, Final

from policies.route.config import Feature
from proxy.body import Body
from proxy.exchange import Request
from proxy.tokens.texts import texts

ENDPOINTS: Final = frozenset(("chat.completions", "completions", "responses", "messages"))
"""Where another model can answer: vectors of another one would be of no use, and objects stay where they were made."""
_MEDIA: Final[dict[str, Feature]] = {"image": "vision", "audio": "audio", "file": "files"}


def routable(request: Request) -> bool:
    """Whether another model can answer it."""
    if request.endpoint.name not in ENDPOINTS or request.model is None or not isinstance(request.body, Body):
        return False
    return not any(request.field(name) for name in ("previous_response_id", "conversation"))


def features_of(request: Request) -> frozenset[Feature]:
    """What a model must be able to do."""
    body = request.body
    assert isinstance(body, Body)
    found: set[Feature] = set()
    if request.field("tools") or request.field("functions"):
        found.add("tools")
    found.update(_MEDIA[medium] for medium in texts(request.endpoint.name, body).media or () if medium in _MEDIA)
    if "audio" in (request.field("modalities") or ()):
        found.add("audio")
    if _shaped(request.field("response_format")) or _shaped(_format(request.field("text"))):
        found.add("json")
    return frozenset(found)


def _format(text: Any) -> Any:
    return text.get("format") if isinstance(text, dict) else None


def _shaped(shape: Any) -> bool:
    return isinstance(shape, dict) and shape.get("type") in ("json_object", "json_schema")
