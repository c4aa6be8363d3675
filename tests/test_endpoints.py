"""Which endpoint a request is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.dialects import stream_reader
from proxy.endpoints import all_endpoints, endpoint_of, understood_paths, uses_stored

PAGE = Path(__file__).parents[1] / "docs/reference/endpoints.md"


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/chat/completions", "chat.completions"),
        ("GET", "/v1/chat/completions", "chat.completions.stored"),
        ("GET", "/v1/chat/completions/chatcmpl-1", "chat.completions.stored"),
        ("DELETE", "/v1/chat/completions/chatcmpl-1", "chat.completions.stored"),
        ("GET", "/v1/chat/completions/chatcmpl-1/messages", "chat.completions.stored"),
        ("POST", "/v1/responses", "responses"),
        ("POST", "/v1/responses/compact", "responses.compact"),
        ("POST", "/v1/responses/input_tokens", "responses.input_tokens"),
        ("GET", "/v1/responses/resp_1", "responses.stored"),
        ("POST", "/v1/responses/resp_1/cancel", "responses.stored"),
        ("GET", "/v1/responses/resp_1/input_items", "responses.stored"),
        ("POST", "/v1/embeddings", "embeddings"),
        ("POST", "/v1/chat/completions/", "chat.completions"),
        ("POST", "/v1/images/edits", "images.edits"),
        ("POST", "/v1/audio/translations", "audio.translations"),
        ("POST", "/v1/messages", "messages"),
        ("POST", "/v1/messages/count_tokens", "messages.count_tokens"),
        ("POST", "/v1/messages/batches", "messages.batches"),
        ("GET", "/v1/messages/batches/msgbatch_1/results", "messages.batches"),
        ("GET", "/v1/models", "models"),
        ("HEAD", "/v1/models", "models"),
        ("GET", "/v1/models/meta-llama/Llama-3.3-70B-Instruct", "models"),
        ("GET", "/v1/models/gpt-4o%2Dmini", "models"),
        ("GET", "/v1/files/file-1/content", "files"),
        ("POST", "/v1/files", "files"),
        ("POST", "/v1/threads/runs", "threads"),
        ("POST", "/v1/realtime/client_secrets", "realtime"),
        ("POST", "/v1/vector_stores/vs_1/search", "vector_stores"),
        ("GET", "/v1/organization/costs", "organization"),
        ("POST", "/v1/audio/voices", "other"),
        ("POST", "/v1/unheard_of", "other"),
        ("POST", "/v1/", "other"),
        ("POST", "/v1/chat", "chat.completions.stored"),
    ],
)
def test_endpoint(method: str, path: str, name: str) -> None:
    """Method and path tell the endpoint; ids in a path are objects at the upstream."""
    endpoint = endpoint_of(method, path)
    assert endpoint is not None
    assert endpoint.name == name


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/chat/completions", "/weir/me", "/healthz", "/V1/files", "v1/files"])
def test_outside(path: str) -> None:
    """What isn't under /v1/ is no endpoint; Azure's form of path is for upstreams, not for clients."""
    assert endpoint_of("POST", path) is None
    assert endpoint_of("POST", "/openai/deployments/gpt-4o/chat/completions") is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/../files"),
        ("GET", "/v1/models/%2e%2e/files"),
        ("GET", "/v1/models/..%2Ffiles"),
        ("GET", "/v1/models/.%2E/files"),
        ("GET", "/v1/models/..\\files"),
        ("GET", "/v1/models/./../../v1/files"),
        ("GET", "/v1//files"),
        ("GET", "/v1/./files"),
        ("GET", "/v1/%66iles"),
        ("GET", "/v1/Files"),
        ("GET", "/v1/models.json"),
        ("DELETE", "/v1/models/ft:gpt-4o:acme::1"),
        ("POST", "/v1/chat/completions//"),
        ("POST", "/v1/embeddings/../files"),
    ],
)
def test_no_spelling_slips_through(method: str, path: str) -> None:
    """However a path is written, what an upstream might take for an object counts as stateful."""
    endpoint = endpoint_of(method, path)
    assert endpoint is not None
    assert endpoint.stateful
    assert not endpoint.metered


def test_what_is_known_of_them() -> None:
    """Names are unique; what is metered has a dialect, an operation, and no state; what is parsed streams by its
    dialect.
    """
    endpoints = all_endpoints()
    assert len({endpoint.name for endpoint in endpoints}) == len(endpoints)
    for endpoint in endpoints:
        assert endpoint.metered == (endpoint.dialect is not None)
        assert not (endpoint.metered and endpoint.stateful)
        if endpoint.dialect is not None:
            assert endpoint.operation
            assert stream_reader(endpoint.dialect).reading.usage is None
    assert {endpoint.name for endpoint in endpoints if endpoint.include_usage} == {"chat.completions", "completions"}
    assert {endpoint.name for endpoint in endpoints if endpoint.metered and not endpoint.parsed} == {
        "images.edits",
        "images.variations",
        "audio.transcriptions",
        "audio.translations",
    }


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/v1/responses", {"input": "hi"}, False),
        ("/v1/responses", {"store": True}, False),
        ("/v1/responses", {"previous_response_id": "resp_1"}, True),
        ("/v1/responses", {"previous_response_id": None, "background": False}, False),
        ("/v1/responses", {"conversation": {"id": "conv_1"}}, True),
        ("/v1/responses", {"background": True}, True),
        ("/v1/responses/compact", {"previous_response_id": "resp_1"}, True),
        ("/v1/responses/input_tokens", {"conversation": "conv_1"}, True),
        ("/v1/chat/completions", {"previous_response_id": "resp_1"}, False),
    ],
)
def test_state_by_body(path: str, fields: dict[str, object], expected: bool) -> None:
    """A request that names a stored object, or goes on without its client, uses state."""
    endpoint = endpoint_of("POST", path)
    assert endpoint is not None
    assert uses_stored(endpoint, fields.get) is expected


def test_the_page_is_complete() -> None:
    """The reference names every endpoint, and says of every understood path what the table says."""
    text = PAGE.read_text()
    for endpoint in all_endpoints():
        assert f"`{endpoint.name}`" in text, endpoint.name
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for line in text.splitlines()
        if (cells := line.split("|"))[1:] and "/v1/" in cells[1]
    }
    for path, endpoint in understood_paths().items():
        name, operation, request, metered, *_ = rows[path]
        assert name == f"`{endpoint.name}`"
        assert operation == (f"`{endpoint.operation}`" if endpoint.operation else "")
        assert request == ("JSON, scanned" if endpoint.parsed else "form, streamed")
        assert metered == ("yes" if endpoint.metered else "no")
