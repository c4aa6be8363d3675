"""What goes to and comes from `/v1/batches` and `/v1/files`, against OpenAI's published schema of these endpoints.

Names, types and enumerations below are those of the OpenAPI document that OpenAI publishes (`openapi.yaml` of the
repository openai/openai-openapi: Batch, BatchRequestInput, BatchRequestOutput, ListBatchesResponse, OpenAIFile,
DeleteFileResponse, the bodies of createBatch and createFile). What isn't required may be null, as in the document's
own examples. Endpoints of batches are those that openai-python lists, which is newer.
"""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import aiohttp
import jsonschema
import msgspec
import orjson
import pytest
from openai.types import batch_create_params

from policies.defer_to_batch.provider import Provider
from proxy.simulator import Simulator
from proxy.simulator.incoming import Incoming
from proxy.simulator.latency import Latency
from proxy.simulator.reply import Reply
from proxy.simulator.speech.batches import Terms
from tests.plane.conftest import Serve
from tests.policies.test_defer_to_batch import DAY, HOUR, Wall, world

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
OPTIONAL = {"output_file_id": "string", "error_file_id": "string"} | {
    f"{state}_at": "integer"
    for state in ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
}
STATUSES = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
METADATA = {"type": ["object", "null"], "additionalProperties": TEXT, "maxProperties": 16}


def kind(required: str, optional: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    """An object; what isn't said of a required property is that it is a string."""
    names = required.split()
    return {
        "type": "object",
        "required": names,
        "properties": {**dict.fromkeys(names, TEXT), **(optional or {}), **properties},
    }


ERRORS = kind(
    "",
    object=TEXT,
    data={
        "type": "array",
        "items": kind(
            "", code=TEXT, message=TEXT, param={"type": ["string", "null"]}, line={"type": ["integer", "null"]}
        ),
    },
)
BATCH = kind(
    "id object endpoint input_file_id completion_window status created_at",
    {name: {"type": [what, "null"]} for name, what in OPTIONAL.items()},
    object={"enum": ["batch"]},
    status={"enum": STATUSES},
    created_at=NUMBER,
    errors={"anyOf": [ERRORS, {"type": "null"}]},
    request_counts=kind("total completed failed", total=NUMBER, completed=NUMBER, failed=NUMBER),
    metadata=METADATA,
)
LIST = kind(
    "object data has_more",
    {"first_id": TEXT, "last_id": TEXT},
    object={"enum": ["list"]},
    data={"type": "array", "items": BATCH},
    has_more={"type": "boolean"},
)
CREATE = kind(
    "input_file_id endpoint completion_window",
    endpoint={"enum": list(get_args(get_type_hints(batch_create_params.BatchCreateParams)["endpoint"]))},
    completion_window={"enum": ["24h"]},
    metadata=METADATA,
)
INPUT = kind("custom_id method url body", method={"enum": ["POST"]}, body={"type": "object"})
OUTPUT = kind(
    "id custom_id response error",
    response={
        "anyOf": [
            kind("status_code request_id body", status_code=NUMBER, body={"type": "object"}),
            {"type": "null"},
        ]
    },
    error={"anyOf": [kind("code message"), {"type": "null"}]},
)
FILE = kind(
    "id object bytes created_at filename purpose status",
    object={"enum": ["file"]},
    bytes=NUMBER,
    created_at=NUMBER,
    purpose={
        "enum": ["assistants", "assistants_output", "batch", "batch_output", "fine-tune", "fine-tune-results", "vision"]
    },
    status={"enum": ["uploaded", "processed", "error"]},
)
GONE = kind("id object deleted", object={"enum": ["file"]}, deleted={"type": "boolean"})
FORM_NAMES = {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}


def fits(told: bytes | dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(told) if isinstance(told, bytes) else told
    jsonschema.validate(found, schema)
    return found


class Heard:
    """What the provider heard and said of batches and their files."""

    def __init__(self, simulator: Simulator) -> None:
        self.asked: list[tuple[str, str, bytes, bytes]] = []
        self.files: list[bytes] = []
        batches = simulator.batches
        reply, read, keep = batches.reply, batches._read, batches._keep

        def replied(request: Incoming, id: str) -> Reply:
            told = reply(request, id)
            self.asked.append((request.method, id, request.body, told.body))
            return told

        def was_read(id: str) -> bytes | None:
            self.files.append(content := read(id) or b"")
            return content

        def kept(name: str, content: bytes) -> str:
            self.files.append(content)
            return keep(name, content)

        batches.reply, batches._read, batches._keep = replied, was_read, kept  # type: ignore[method-assign]

    def lines(self, schema: dict[str, Any], has: str) -> list[dict[str, Any]]:
        lines = [orjson.loads(line) for content in self.files for line in content.splitlines()]
        return [fits(line, schema) for line in lines if has in line]


@pytest.mark.parametrize("takes_s", [HOUR, 48 * HOUR], ids=["in time", "too slow"])
async def test_the_published_schema(serve: Serve, simulator: Simulator, takes_s: float) -> None:
    """Requests of ours and answers that are read: batches, lines, failing ones and those that weren't executed."""
    heard, wall = Heard(simulator), Wall()
    simulator.batches.terms = Terms(Latency("constant", takes_s), fail=0.3, cancel_s=60.0)
    async with world(serve, simulator, wall) as w:
        for n in range(8):
            told = await w.plane.chat(DAY, model="gpt-4o-mini", messages=[{"role": "user", "content": f"{n}"}])
            assert told.status == 202
        for forward_s in (11, 1, HOUR, HOUR, 12 * HOUR, 10 * HOUR, 600, 600, 600):
            await w.at(forward_s)
    created = [asked for asked in heard.asked if asked[:2] == ("POST", "")]
    assert created
    for _, _, body, answer in created:
        fits(body, CREATE), fits(answer, BATCH)
    for method, id, _, answer in heard.asked:
        fits(answer, LIST if (method, id) == ("GET", "") else BATCH)
    assert len(heard.lines(INPUT, "method")) >= 8
    outputs = heard.lines(OUTPUT, "response")
    assert {line["response"] and line["response"]["status_code"] for line in outputs} >= {200}
    assert any(line["error"] for line in outputs) == (takes_s > 24 * HOUR)


async def test_files_and_lists(simulator: Simulator) -> None:
    """What clients do by themselves: upload, list in pages, delete."""
    async with aiohttp.ClientSession(headers={"authorization": "Bearer sk"}) as client:

        async def told(method: str, path: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
            async with client.request(method, f"{simulator.url}{path}", **more) as answer:
                return fits(await answer.read(), schema)

        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field(
            "file", b'{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {}}', filename="f"
        )
        file = await told("POST", "/files", FILE, data=form)
        asked = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        made = [(await told("POST", "/batches", BATCH, json=asked))["id"] for _ in range(5)]
        found, page = list[str](), {"last_id": "", "has_more": True}
        while page["has_more"]:
            after = f"&after={page['last_id']}" if found else ""
            page = await told("GET", f"/batches?limit=2{after}", LIST)
            found += [one["id"] for one in page["data"]]
        assert found == made[::-1]
        await told("DELETE", f"/files/{file['id']}", GONE)


async def test_uploads_are_forms_of_the_schema(serve: Serve, simulator: Simulator) -> None:
    """A file goes up with the names that the schema has, for the purpose `batch`."""
    forms: list[bytes] = []
    async with world(serve, simulator) as w:
        call = Provider._call

        async def called(self: Provider, method: str, target: str, body: bytes, headers: Any, total_s: float) -> bytes:
            forms.extend([body] if target == "/v1/files" else [])
            return await call(self, method, target, body, headers, total_s)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Provider, "_call", called)
            await w.plane.chat(DAY, model="gpt-4o-mini")
            await w.at(11)
    (form,) = forms
    assert set(re.findall(rb' name="([^"]*)"', form)) <= {name.encode() for name in FORM_NAMES}
    assert b'name="purpose"\r\n\r\nbatch\r\n' in form


async def test_a_batch_is_found_behind_many_others(serve: Serve, simulator: Simulator) -> None:
    """Nobody heard that it was made, and the account has made hundreds since: it is found, and not made again."""
    async with world(serve, simulator) as w:
        told = await w.plane.chat(DAY)
        simulator.fault("truncated-json", path="/v1/batches", nth=1)
        await w.at(60)
        known = simulator.batches._batches
        (ours,) = known.values()
        for n in range(250):
            facts = {**ours.facts, "id": f"batch_{n}", "metadata": None}
            known[f"batch_{n}"] = msgspec.structs.replace(ours, id=f"batch_{n}", facts=facts, over=True)
        for _ in range(3):
            await w.at(60)
        assert len(known) == 251
        assert (await w.job(told))["status"] == "completed"
