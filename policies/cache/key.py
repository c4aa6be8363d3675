"""What makes two requests the same one, and which requests may be answered from a cache at all. Pure.

Rules:
1. The key is everything that can change the answer: tenant, endpoint, model, every field of the body (known or not),
   the headers that choose an API's version, and the query. What only says how the answer is delivered or billed is left
   out.
2. A field given with its documented default, or with null where that says the same, is the same as none.
3. The order of fields doesn't count, but where it is meant: an answer in a JSON schema comes in the schema's order.
4. Where a text can be read in two ways (a name given twice, a number that no double holds), or is large, its very bytes
   are the key: whoever reads it otherwise than we do reads the same bytes the same way.
5. Requests that use or make something kept at the upstream, or tools that the provider runs, aren't cached: their
   answers depend on more than the request.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

import msgspec
import orjson

from proxy.body import Body
from proxy.exchange import Identity, Request
from proxy.objects.ownership import used_by
from proxy.wire.headers import Headers

VERSION: Final = b"weir-cache-2"
Share = Literal["user", "key", "tenant"]

_CACHEABLE: Final = frozenset(
    ("chat.completions", "completions", "embeddings", "messages", "responses", "audio.speech", "moderations")
)
_DETERMINISTIC: Final = frozenset(("embeddings", "moderations", "audio.speech"))
# How an answer is delivered, billed, labelled or routed; not what it says.
_DELIVERY: Final = frozenset(
    (
        "model",  # has a place of its own in the key
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
# Documented defaults: OpenAI's API reference, and Anthropic's for messages. Null says the same for all that are named.
_SAMPLING: Final[dict[str, Any]] = {"temperature": 1, "top_p": 1, "seed": None, "stop": None, "max_tokens": None}
_CHOICES: Final[dict[str, Any]] = {**_SAMPLING, "n": 1, "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}}
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "chat.completions": {
        **_CHOICES,
        "logprobs": False,
        "top_logprobs": 0,
        "max_completion_tokens": None,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "functions": [],
        "function_call": None,
        "modalities": ["text"],
        "audio": None,
        "prediction": None,
        "reasoning_effort": None,
        "verbosity": None,
        "web_search_options": None,
    },
    "completions": {**_CHOICES, "logprobs": None, "echo": False, "suffix": None, "best_of": None},
    "responses": {
        **_SAMPLING,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "instructions": None,
        "include": [],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "top_logprobs": 0,
        "truncation": "disabled",
        "reasoning": None,
        "prompt": None,
        "previous_response_id": None,
        "conversation": None,
    },
    "messages": {
        **_SAMPLING,
        "stop_sequences": [],
        "system": None,
        "thinking": {"type": "disabled"},
        "tools": [],
        "tool_choice": {"type": "auto"},
        "top_k": None,
        "container": None,
        "mcp_servers": [],
    },
    "embeddings": {"encoding_format": "float", "dimensions": None},
    "audio.speech": {"response_format": "mp3", "speed": 1, "stream_format": "audio", "instructions": None},
}
_NONE: Final[dict[str, Any]] = {}
# Objects in here have no order; those of other fields (tools, formats) are schemas, whose order answers follow.
_UNORDERED: Final = frozenset(("messages", "input", "system", "prompt"))
VERSIONED: Final = frozenset(
    (b"openai-beta", b"anthropic-beta", b"anthropic-version", b"openai-organization", b"openai-project")
)
_OWN_TOOLS: Final = frozenset((None, "function", "custom"))  # what the client runs itself
_STATEFUL: Final = ("background", "previous_response_id", "conversation", "container")
LARGE_BYTES: Final = 256 * 1024  # above, a body is its bytes: reading it all would hold up the loop
_LOOKED_THROUGH_BYTES: Final = 64 * 1024
_EXACT: Final = 2**53
_DIGITS: Final = 15  # that every double holds


class Asked(msgspec.Struct, frozen=True):
    """What a body asks, as far as a cache wants to know. It says the same of every request with these bytes.

    `why`: it can't be answered from a cache, in a word; else `digest` stands for what it says, but for the model.
    `keys` are those of one client key's requests with a body that is remembered, by model and version.
    """

    why: str | None
    digest: bytes = b""
    users: tuple[Any, ...] = ()  # whoever it is for, in the client's own words
    streamed: bool = False
    usage: bool = False  # streamed, with usage
    keys: dict[Any, str] | None = None


def asked(request: Request, sampled: bool) -> Asked:
    """Reads a request's body."""
    why = uncacheable(request, sampled)
    if why is not None:
        return Asked(why)
    body = request.body
    assert isinstance(body, Body)
    get = body.getter
    options, metadata = get("stream_options"), get("metadata")
    return Asked(
        None,
        _digest(request.endpoint.name, body),
        (get("safety_identifier"), get("user"), metadata.get("user_id") if isinstance(metadata, dict) else None),
        get("stream") is True,
        isinstance(options, dict) and options.get("include_usage") is True,
    )


def uncacheable(request: Request, sampled: bool) -> str | None:
    """Why a request can't be answered from a cache, in a word; None where it can."""
    name, body = request.endpoint.name, request.body
    if name not in _CACHEABLE or not isinstance(body, Body):
        return "endpoint"
    get = body.getter
    stored = get("store")
    if stored is True or (name == "responses" and stored is not False):
        return "stored"
    if any(get(field) for field in _STATEFUL) or (name == "responses" and get("prompt")) or used_by(body):
        return "stateful"
    if isinstance(modalities := get("modalities"), list) and "audio" in modalities:
        return "stateful"  # the answer is kept there, and later turns name it
    if any(not isinstance(tool, dict) or tool.get("type") not in _OWN_TOOLS for tool in _tools(get("tools"))):
        return "tools"
    if get("mcp_servers") or get("web_search_options"):
        return "tools"
    if name not in _DETERMINISTIC and not sampled and (type(get("temperature")) is bool or get("temperature") != 0):
        return "sampled"
    return None


def _tools(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def key_of(request: Request, share: Share, vary: frozenset[bytes] = frozenset(), told: Asked | None = None) -> str:
    """32 hex digits that stand for the request; it must be one that a cache may answer."""
    told = asked(request, True) if told is None else told
    identity, target = request.exchange.identity, request.target
    query = target.partition(b"?")[2] if b"?" in target else b""
    head = orjson.dumps(
        (_scope(identity, told.users, share), request.endpoint.name, request.model, query.decode("latin-1"))
    )
    versions = versions_of(request.headers, vary)
    return hashlib.blake2b(b"%b%b%b" % (told.digest, versions, head), digest_size=16).hexdigest()


def versions_of(headers: Headers, vary: frozenset[bytes]) -> bytes:
    """What of the headers can change an answer: those that choose versions, and those that the policy names."""
    found = [(name, value) for name, value in headers if name in VERSIONED or name in vary]
    if not found:
        return b"-"
    found.sort()  # of one name: in the order that they were given in has no meaning either
    named = orjson.dumps([(name.decode("latin-1"), value.decode("latin-1")) for name, value in found])
    return hashlib.blake2b(named, digest_size=16).digest()


def _digest(endpoint: str, body: Body) -> bytes:
    """What a body says, but for its model."""
    raw = body.raw
    if len(raw) > LARGE_BYTES:
        return hashlib.blake2b(raw, digest_size=32, key=VERSION, person=b"bytes").digest()
    fields = body.fields
    said = essential(fields, endpoint)
    digest = hashlib.blake2b(digest_size=32, key=VERSION, person=b"fields")
    for name in sorted(said):
        digest.update(orjson.dumps(name))
        digest.update(b":")
        digest.update(orjson.dumps(said[name], option=orjson.OPT_SORT_KEYS if name in _UNORDERED else None))
        digest.update(b",")
    if orjson.dumps(fields) != raw and not _one_reading(raw):
        digest.update(raw)
    return digest.digest()


def plain(body: Body) -> bool:
    """Whether every JSON reader understands the same of a body, so that parts of it may be compared."""
    return len(body.raw) <= LARGE_BYTES and (orjson.dumps(body.fields) == body.raw or _one_reading(body.raw))


def _one_reading(raw: bytes) -> bool:
    """Whether every JSON reader understands the same: no name stands twice in an object, no number is too long.

    Slow, but only for those who don't write as compactly as JSON's writers in SDKs do.
    """
    if len(raw) > _LOOKED_THROUGH_BYTES:
        return False
    try:
        json.loads(raw, object_pairs_hook=_each_once, parse_float=_short, parse_int=_short)
    except (_Ambiguous, RecursionError):
        return False
    return True


class _Ambiguous(Exception):  # noqa: N818 - a state of affairs
    pass


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise _Ambiguous


def _short(number: str) -> None:
    if sum(map(str.isdigit, number)) > _DIGITS:
        raise _Ambiguous


def essential(fields: dict[str, Any], endpoint: str = "") -> dict[str, Any]:
    """The fields that can change an answer, but for the model and what is given as its endpoint's default."""
    defaults = _DEFAULTS.get(endpoint, _NONE)
    kept = {}
    for name, value in fields.items():
        if name in _DELIVERY or (name in defaults and (value is None or _same(value, defaults[name]))):
            continue
        kept[name] = int(value) if type(value) is float and value.is_integer() and abs(value) < _EXACT else value
    return kept


def _same(value: Any, default: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and isn't true."""
    return bool(value == default) and (type(value) is bool) is (type(default) is bool)


def scope_of(identity: Identity, body: Body, share: Share) -> list[Any]:
    """Among whom an answer is shared: never across tenants, and only as far as the policy says within one."""
    metadata = body.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return _scope(identity, (body.get("safety_identifier"), body.get("user"), user_id), share)


def _scope(identity: Identity, users: tuple[Any, ...], share: Share) -> list[Any]:
    if share == "tenant":
        return [identity.tenant]
    if share == "key":
        return [identity.tenant, "key", identity.key]
    return [identity.tenant, "user", identity.key, *users]
