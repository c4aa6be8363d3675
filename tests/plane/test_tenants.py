"""Tenants that share one upstream key see nothing of each other: what is kept upstream is denied, or kept apart."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.running import Plane, entry, key
from tests.plane.test_metering import form
from tests.wire.raw import Answer, get, post

ANNA, BERT = "authorization: Bearer wk-anna", "authorization: Bearer wk-bert"
KEYS = [key("wk-anna", "key-a", team="anna"), key("wk-bert", "key-b", team="bert")]
OPEN = [entry("allow", stateful=True)]


async def upload(plane: Plane, who: str, name: str = "a.jsonl") -> str:
    body, kind = form({"purpose": "batch"}, ("file", name, b'{"a": 1}\n'))
    answer = await plane.send(post("/v1/files", body, who, f"content-type: {kind}"))
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


DENIED = [
    ("GET", "/v1/files"),
    ("GET", "/v1/files/file-abc123"),
    ("DELETE", "/v1/files/file-abc123"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/responses/resp_abc123"),
    ("POST", "/v1/threads/runs"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/chat/completions"),
    ("GET", "/v1/organization/usage/completions"),
    ("DELETE", "/v1/models/ft:gpt-4o:acme::1"),
    ("GET", "/v1/something/new"),
    ("GET", "/v1/%66iles"),
    ("GET", "/v1//files"),
    ("GET", "/v1/models/%2e%2e/files"),
    ("GET", "/v1/Files"),
    ("POST", "/v1//chat/completions"),
]


@pytest.mark.parametrize(("method", "path"), DENIED)
async def test_denied_by_default(serve: Serve, simulator: Simulator, method: str, path: str) -> None:
    """With a shared key, what keeps objects, and what nobody knows, is refused, however it is spelled."""
    async with serve(keys=KEYS) as plane:
        data = post(path, b"{}", ANNA) if method == "POST" else get(path, ANNA, method=method)
        answer = await plane.send(data, method)
        assert answer.status in (400, 403, 404)
        assert answer.error["message"]
    assert simulator.requests == []


USING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"model": "gpt-4o", "input": "x", "previous_response_id": "resp_abc123"}),
    ("/v1/responses", {"model": "gpt-4o", "input": "x", "conversation": {"id": "conv_1"}}),
    ("/v1/responses", {"model": "gpt-4o", "input": "x", "background": True}),
    ("/v1/responses", {"model": "gpt-4o", "input": [{"type": "item_reference", "id": "rs_1"}]}),
    (
        "/v1/responses",
        {"model": "gpt-4o", "input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    ),
    (
        "/v1/responses",
        {"model": "gpt-4o", "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
    ),
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": [{"file": {"file_id": "f"}}]}]}),
    ("/v1/messages", {"model": "m", "max_tokens": 9, "container": "cntr_1", "messages": []}),
]


@pytest.mark.parametrize("escaped", [False, True], ids=["plain", "escaped"])
@pytest.mark.parametrize(("path", "fields"), USING)
async def test_use_of_kept_objects_is_denied(
    serve: Serve, simulator: Simulator, path: str, fields: dict[str, Any], escaped: bool
) -> None:
    """Endpoints that keep nothing by themselves are no way to kept objects, also if JSON spells a name in escapes."""
    body = orjson.dumps(fields)
    if escaped:
        body = body.replace(b"_id", rb"\u005fid").replace(b"item_r", rb"item\u005fr").replace(b'"con', rb'"\u0063on')
    async with serve(keys=KEYS) as plane:
        answer = await plane.send(post(path, body, ANNA))
        assert answer.status == 403
        assert answer.json["error"]["code"] == "stateful_not_allowed"
    assert simulator.requests == []


async def test_what_only_looks_like_it_passes(serve: Serve) -> None:
    """Words of a conversation, parameters of tools and replayed items aren't uses of kept objects."""
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"file_id": {"type": "string"}}}},
    }
    said = [{"role": "user", "content": 'file-abc123 "file_id": "x" \u6cb3'}]
    async with serve(keys=KEYS) as plane:
        for fields in ({"messages": said}, {"messages": said, "tools": [tool]}):
            assert (await plane.chat(ANNA, **fields)).status == 200
        replayed = [
            {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
        ]
        items = [*replayed, {"role": "user", "content": "and now?"}]
        answer = await plane.post("/v1/responses", {"model": "gpt-4o", "input": items}, ANNA)
        assert answer.status == 200, answer.body


async def test_files_belong_to_who_made_them(serve: Serve, simulator: Simulator) -> None:
    """A file is listed, read and deleted by its maker; for anybody else it doesn't exist."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        annas, berts = await upload(plane, ANNA), await upload(plane, BERT)

        async def listed(who: str) -> list[str]:
            return [item["id"] for item in (await plane.get("/v1/files", who)).json["data"]]

        assert (await listed(ANNA), await listed(BERT)) == ([annas], [berts])
        content = f"/v1/files/{annas}/content"
        assert (await plane.get(content, ANNA)).status == 200
        for method, path in (("GET", content), ("GET", f"/v1/files/{annas}"), ("DELETE", f"/v1/files/{annas}")):
            answer = await plane.get(path, BERT, method=method)
            assert (answer.status, answer.error["code"]) == (404, "not_found")
        missing = await plane.get("/v1/files/file-000000000000", BERT)
        assert missing.json["error"]["message"].replace("file-000000000000", annas) == answer.json["error"]["message"]
        assert (await plane.get(f"/v1/files/{annas}", ANNA, method="DELETE")).status == 200
        assert await listed(ANNA) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/%s",
        "/v1/files/./%s",
        "/v1/files/x/../%s",
        "/v1//files/%s",
        "/v1/files//%s",
        "/v1/files/%s/",
        "/v1/files/%s/content",
        "/v1/files/%s?x=1",
        "/v1/files/content/%s",
        "/v1/%%66iles/%s",
    ],
)
async def test_no_spelling_reaches_anothers(serve: Serve, simulator: Simulator, path: str) -> None:
    """Whatever a server may make of a path, another tenant's id in it is refused before it gets there."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        annas = await upload(plane, ANNA)
        for spelled in (annas, annas.replace("-", "%2D", 1), annas.replace("f", "%66", 1)):
            answer = await plane.get(path % spelled, BERT)
            assert answer.status in (400, 403, 404), answer.body
    assert len(simulator.requests) == 1


BODIES = [
    b'{"input_file_id": "%b", "endpoint": "/v1/chat/completions", "completion_window": "24h"}',
    b'{"input_file_id": "\\u0066%b"}',
    b'{"a": {"b": ["%b"]}}',
    b'{"file_ids": ["%b"]}',
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
async def test_bodies_name_own_objects_only(serve: Serve, simulator: Simulator, body: bytes, kind: str) -> None:
    """A batch, a run or a store can't be made of another's file, whatever the body is said to be."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        annas = await upload(plane, ANNA)
        told = body % (annas[1:] if b"u0066" in body else annas).encode()
        answer = await plane.send(post("/v1/batches", told, BERT, f"content-type: {kind}"))
        assert (answer.status, answer.error["code"]) == (404, "not_found")
        assert len(simulator.requests) == 1
        mine = await plane.send(post("/v1/batches", told, ANNA, f"content-type: {kind}"))
        assert len(simulator.requests) == 2
        assert mine.status != 404 or mine.header(b"x-request-id")


async def test_bodies_that_cannot_be_read(serve: Serve, simulator: Simulator) -> None:
    """What can't be read for ids doesn't go up: broken JSON, packed bodies, forms that hold references."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        annas = await upload(plane, ANNA)
        body, kind = form({"file_id": annas}, ("file", "x", b"x"))
        packed = post("/v1/batches", b"\x1f\x8b\x08", BERT, "content-encoding: gzip")
        for data in (post("/v1/batches", b"{", BERT), packed, post("/v1/x", body, BERT, f"content-type: {kind}")):
            assert (await plane.send(data)).status == 400
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_stored_responses(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """A stored response is its maker's, also if it was streamed; nobody else may continue it."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        answer = await plane.post("/v1/responses", {"model": "gpt-4o", "input": "hello", "stream": stream}, ANNA)
        made = response_id(answer)
        await plane.quiet()
        assert (await plane.get(f"/v1/responses/{made}", ANNA)).json["id"] == made
        assert (await plane.get(f"/v1/responses/{made}", BERT)).status == 404
        following = {"model": "gpt-4o", "input": "and?", "previous_response_id": made}
        assert (await plane.post("/v1/responses", following, BERT)).status == 404
        assert (await plane.post("/v1/responses", following, ANNA)).status == 200
        item = {"type": "item_reference", "id": output_id(answer)}
        assert (await plane.post("/v1/responses", {"model": "gpt-4o", "input": [item]}, BERT)).status == 404
        mine = await plane.post("/v1/responses", {"model": "gpt-4o", "input": [item]}, ANNA)
        assert mine.status == 200 or mine.header(b"x-request-id")


def response_id(answer: Answer) -> str:
    return str(_response(answer)["id"])


def output_id(answer: Answer) -> str:
    return str(_response(answer)["output"][-1]["id"])


def _response(answer: Answer) -> dict[str, Any]:
    if answer.body.startswith(b"{"):
        return answer.json  # type: ignore[no-any-return]
    payload = next(line for line in answer.body.split(b"\n") if line.startswith(b'data: {"type":"response.completed"'))
    return orjson.loads(payload[6:])["response"]  # type: ignore[no-any-return]


async def test_a_team_shares(serve: Serve) -> None:
    """Keys of one team are one tenant."""
    keys = [*KEYS, key("wk-anna-2", "key-a2", team="anna")]
    async with serve(keys=keys, policies=OPEN) as plane:
        annas = await upload(plane, ANNA)
        assert (await plane.get(f"/v1/files/{annas}", "authorization: Bearer wk-anna-2")).status == 200


async def test_administration_stays_closed(serve: Serve, simulator: Simulator) -> None:
    """`stateful: true` opens objects, not the organisation that they are in."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        for path in ("/v1/organization/usage/completions", "/v1/organization/admin_api_keys", "/v1/projects/p"):
            assert (await plane.get(path, ANNA)).status == 403
            assert (await plane.send(post(path, b"{}", ANNA))).status == 403
    assert simulator.requests == []


async def test_objects_made_elsewhere_are_nobodys(serve: Serve, simulator: Simulator) -> None:
    """What was made past the proxy is in no tenant's list."""
    body, kind = form({"purpose": "batch"}, ("file", "a.jsonl", b"{}\n"))
    async with serve() as around:
        made = (await around.send(post("/v1/files", body, f"content-type: {kind}"))).json["id"]
    async with serve(keys=KEYS, policies=OPEN) as plane:
        assert (await plane.get("/v1/files", ANNA)).json["data"] == []
        assert (await plane.get(f"/v1/files/{made}", ANNA)).status == 404


async def test_unknown_owners_close_the_door(serve: Serve, simulator: Simulator) -> None:
    """Where nobody can say whose an object is, nobody gets it, and the answer says that it is not for ever."""
    async with serve(keys=KEYS, policies=OPEN) as plane:
        annas = await upload(plane, ANNA)

        async def silent(kind: str, **question: Any) -> None:
            return None

        plane.plane.lookup = silent
        policy: Any = plane.plane.state.chain.built[0].policy
        policy._objects._lookup = silent
        answer = await plane.get(f"/v1/files/{annas}", ANNA)
        assert (answer.status, answer.error["code"]) == (503, "owners_unavailable")


async def test_open_mode_keeps_nothing_apart(serve: Serve, simulator: Simulator) -> None:
    """Where each client brings its own key, the upstream itself keeps them apart: everything passes."""
    async with serve(upstreams={"up": {"url": simulator.url}}) as plane:
        made = await upload(plane, "authorization: Bearer sk-own")
        assert (await plane.get(f"/v1/files/{made}", "authorization: Bearer sk-own")).status == 200
