"""What makes two requests the same one, and which requests may be answered from a cache at all. Pure.

Rules:
1. The key is everything that can change the answer: tenant, endpoint, model, every field of the body (known or not),
   the headers that choose an API's version, and the query. What only says how the answer is delivered or billed is left
   out.
2. A field given with its documented default is the same as none.
3. Requests that use or make something kept at the upstream, or tools that the provider runs, aren't cached: their
   answers depend on more than the request.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import orjson

from proxy.body import Body
from proxy.exchange import Identity, Request

VERSION: Final = b"weir-cache-1"
Share = Literal["user", "key", "project", "team", "tenant"]

_CACHEABLE: Final = frozenset(
    ("chat.completions", "completions", "embeddings", "messages", "responses", "audio.speech", "moderations")
)
_DETERMINISTIC: Final = frozenset(("embeddings", "moderations", "audio.speech"))
# How an answer is delivered, billed, labelled or routed; not what it says.
_DELIVERY: Final = frozenset(
    (
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "metadata",
        "store",
        "background",
    )
)
# Documented defaults: OpenAI's API reference, and Anthropic's for messages.
_DEFAULTS: Final[dict[str, tuple[Any, ...]]] = {
    "temperature": (1, None),
    "top_p": (1, None),
    "n": (1, None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "stop": (None,),
    "seed": (None,),
    "max_tokens": (None,),
    "max_completion_tokens": (None,),
    "max_output_tokens": (None,),
    "response_format": ({"type": "text"}, None),
    "tools": ([], None),
    "tool_choice": (None,),
    "functions": ([], None),
    "function_call": (None,),
    "modalities": (["text"], None),
    "audio": (None,),
    "reasoning_effort": (None,),
    "encoding_format": ("float", None),
    "dimensions": (None,),
    "instructions": (None,),
    "previous_response_id": (None,),
    "conversation": (None,),
    "truncation": ("disabled", None),
}
_VERSIONED: Final = frozenset((b"openai-beta", b"anthropic-beta", b"anthropic-version", b"openai-organization"))
_OWN_TOOLS: Final = frozenset((None, "function", "custom"))  # what the client runs itself


def uncacheable(request: Request, sampled: bool) -> str | None:
    """Why a request can't be answered from a cache, in a word; None where it can."""
    name, body = request.endpoint.name, request.body
    if name not in _CACHEABLE or not isinstance(body, Body):
        return "endpoint"
    get = body.getter
    if get("background") or get("previous_response_id") or get("conversation") or get("container"):
        return "stateful"
    stored = get("store")
    if stored is True or (name == "responses" and stored is not False):
        return "stored"
    if any(not isinstance(tool, dict) or tool.get("type") not in _OWN_TOOLS for tool in _tools(get("tools"))):
        return "tools"
    if get("mcp_servers") or get("web_search_options"):
        return "tools"
    if name not in _DETERMINISTIC and not sampled and get("temperature") != 0:
        return "sampled"
    return None


def _tools(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def key_of(request: Request, share: Share) -> str:
    """32 hex digits that stand for the request."""
    body = request.body
    assert isinstance(body, Body)
    digest = hashlib.blake2b(VERSION, digest_size=16)
    versions = [pair for pair in request.headers if pair[0] in _VERSIONED]
    head = [scope_of(request.exchange.identity, body, share), request.endpoint.name, request.model]
    digest.update(orjson.dumps(head))
    digest.update(request.target.partition(b"?")[2])
    for name, value in sorted(versions):
        digest.update(b"\0%b\0%b" % (name, value))
    digest.update(orjson.dumps(_essential(body.fields), option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def _essential(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in fields.items():
        if name in _DELIVERY or name == "model":
            continue
        defaults = _DEFAULTS.get(name)
        if defaults is not None and type(value) is not bool and value in defaults:
            continue
        if defaults is not None and type(value) is bool and any(value is default for default in defaults):
            continue
        kept[name] = int(value) if type(value) is float and value.is_integer() else value
    return kept


def scope_of(identity: Identity, body: Body, share: Share) -> list[str | None]:
    """Among whom an answer is shared: never across tenants, and only as far as the policy says within one."""
    if share == "tenant":
        return [identity.tenant]
    if share == "team":
        return [identity.tenant, "team", identity.org, identity.team]
    if share == "project":
        return [identity.tenant, "project", identity.org, identity.team, identity.project]
    if share == "key":
        return [identity.tenant, "key", identity.key]
    user = body.get("safety_identifier") or body.get("user")
    if user is None and isinstance(metadata := body.get("metadata"), dict):
        user = metadata.get("user_id")
    return [identity.tenant, "user", identity.key, str(user) if user is not None else None]
