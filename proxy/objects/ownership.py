"""Which objects at an upstream a request names, and which an answer makes: files, batches, stored responses, threads.

Pure. Tenants that share one upstream key are kept apart by these ids, so what could be an id counts as one: a segment
of a path that isn't a word of the API, a value of a field that holds ids, a whole string that looks like one. Ids are
read from parsed JSON, so that escapes hide none.

What an upstream says about a tenant's own objects makes the objects named there its own (a batch names its output
file); `metadata` is the client's own words, and isn't looked into on either way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.body import Body

_COLLECTION: Final = 3  # "/v1/files/ID" splits into ["", "v1", "files", ID]
_PLAIN: Final = re.compile(r"/v1(?:/[A-Za-z0-9_.:~=-]+)+")
_DOTS: Final = (".", "..")
_LOOKS_LIKE_ONE: Final = re.compile(
    r"(?:file|batch|resp|conv|vs|vsfb|asst|thread|run|step|upload|part|cntr|cfile|ftjob|ftckpt|eval|evalrun|video|skill"
    r"|chatcmpl|msgbatch)[-_][A-Za-z0-9_-]{6,200}"
)
# Fields whose values are ids, or lists of them, whatever they look like.
_NAMING: Final = frozenset(
    (
        "assistant_id",
        "batch_id",
        "container",
        "container_id",
        "conversation",
        "conversation_id",
        "error_file_id",
        "file_id",
        "file_ids",
        "fine_tuned_model",
        "input_file_id",
        "output_file_id",
        "part_ids",
        "previous_response_id",
        "result_files",
        "run_id",
        "skill_id",
        "thread_id",
        "training_file",
        "validation_file",
        "vector_store_id",
        "vector_store_ids",
        "video_id",
    )
)
_NOT_STORED: Final = frozenset(("auto", "none"))
_REFERENCE: Final = "item_reference"  # an input item of the Responses API that stands for a stored one
_METADATA: Final = frozenset(("metadata",))
_TOLD_BACK: Final = frozenset(("metadata", "tools", "input", "prompt", "schema"))  # the client's own words, repeated
_USING: Final = frozenset(("messages", "input", "tools", "container", "conversation", "previous_response_id"))
_NEEDLES: Final = (
    b'"file_id"',
    b'"file_ids"',
    b'"vector_store_ids"',
    b'"item_reference"',
    b'"container"',
    b'"conversation"',
    b'"previous_response_id"',
    b"\\u",  # any of these, spelled otherwise
)
# Words of the API that stand where ids may stand.
_WORDS: Final = frozenset(
    (
        "accept",
        "alpha",
        "archive",
        "batches",
        "calls",
        "cancel",
        "checkpoints",
        "client_secrets",
        "complete",
        "completions",
        "content",
        "count_tokens",
        "default",
        "events",
        "file_batches",
        "files",
        "graders",
        "hangup",
        "input_items",
        "input_tokens",
        "items",
        "jobs",
        "members",
        "messages",
        "output_items",
        "parts",
        "pause",
        "permissions",
        "refer",
        "reject",
        "remix",
        "results",
        "resume",
        "run",
        "runs",
        "search",
        "sessions",
        "steps",
        "submit_tool_outputs",
        "threads",
        "transcription_sessions",
        "transcriptions",
        "translations",
        "validate",
        "versions",
    )
)
ADMINISTRATION: Final = frozenset(
    ("organization", "organizations", "projects", "webhook_endpoints", "safety", "vaults")
)


def named_in_path(path: str) -> list[str] | None:
    """The ids in a path, outermost first; None for a path that somebody may read another way (escapes, dots, //)."""
    if not _PLAIN.fullmatch(path) or any(segment in _DOTS for segment in path.split("/")):
        return None
    return [segment for segment in path.split("/")[_COLLECTION:] if segment not in _WORDS]


def named_in(value: Any) -> set[str]:
    """The ids that the JSON of a request about objects names: by their fields or by their looks."""
    return {
        text for name, text in _strings(value, _METADATA) if name in _NAMING or _LOOKS_LIKE_ONE.fullmatch(text)
    } - _NOT_STORED


def used_by(body: Body) -> set[str]:
    """The ids that a request for an answer uses, by their fields only: its texts may say anything."""
    if not any(needle in body.raw for needle in _NEEDLES):
        return set()
    fields = {name: value for name, value in body.fields.items() if name in _USING}
    return {text for name, text in _strings(fields, _METADATA) if name in _NAMING} - _NOT_STORED


def made_in(value: Any) -> set[str]:
    """The ids of what an answer made, and of what it says belongs to it."""
    if not isinstance(value, dict):
        return set()
    made = {text for name, text in _strings(value, _TOLD_BACK) if name in _NAMING}
    output = value.get("output")
    for item in (value, *(output if isinstance(output, list) else ())):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            made.add(item["id"])
    return made - _NOT_STORED


def listed_in(value: Any) -> list[Any] | None:
    """The entries of a list object; None for anything else."""
    entries = value.get("data") if isinstance(value, dict) else None
    return entries if isinstance(entries, list) else None


def _strings(value: Any, skipped: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Every string in a JSON value, with the name of the field that holds it, or that holds its list."""
    waiting: list[tuple[Any, str]] = [(value, "")]
    while waiting:
        value, name = waiting.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, list):
            waiting.extend((item, name) for item in value)
        elif isinstance(value, dict):
            waiting.extend(_members(value, name, skipped))


def _members(value: dict[str, Any], name: str, skipped: frozenset[str]) -> Iterator[tuple[Any, str]]:
    kind = value.get("type")
    for inner, held in value.items():
        if inner in skipped or (inner == "input" and isinstance(kind, str) and kind.endswith("tool_use")):
            continue  # a tool's own arguments
        if inner == "id" and (kind == _REFERENCE or name in _NAMING):
            yield held, "file_id"  # names an object, as that field would
        else:
            yield held, inner


def parsed(text: bytes) -> Any:
    """A JSON value, or None."""
    try:
        return orjson.loads(text)
    except ValueError:
        return None
