"""Keys on the wire: who gets in, with what, until when; and that no key goes where it doesn't belong."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from proxy.errors import WeirError
from proxy.exchange import Forward, Request
from proxy.response import Response
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.running import UPSTREAM_KEY, Plane, entry, key
from tests.wire.raw import chat, get, post

GOOD = "authorization: Bearer wk-good"


def credentials(simulator: Simulator) -> list[tuple[bytes, bytes]]:
    """What the last request showed the upstream."""
    names = (b"authorization", b"x-api-key", b"api-key")
    return [(name.lower(), value) for name, value in simulator.requests[-1].headers if name.lower() in names]


@pytest.mark.parametrize("line", [GOOD, "x-api-key: wk-good", "api-key: wk-good"])
async def test_virtual_keys_stay_here(serve: Serve, simulator: Simulator, line: str) -> None:
    """The upstream sees its own key, once, in its own form, and never ours."""
    async with serve(keys=[key("wk-good")]) as plane:
        assert (await plane.chat(line)).status == 200
        assert credentials(simulator) == [(b"authorization", f"Bearer {UPSTREAM_KEY}".encode())]
        message = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        assert (await plane.post("/v1/messages", message, line)).status == 200
        assert credentials(simulator) == [(b"x-api-key", UPSTREAM_KEY.encode())]
        await plane.get("/v1/models", line)
        assert credentials(simulator) == [(b"authorization", f"Bearer {UPSTREAM_KEY}".encode())]
    assert not any(b"wk-good" in value for request in simulator.requests for _, value in request.headers)


async def test_virtual_keys_stay_here_without_another(serve: Serve, simulator: Simulator) -> None:
    """Also an upstream without a key of its own doesn't get to see ours; its refusal isn't the client's fault."""
    async with serve(keys=[key("wk-good")], upstreams={"up": {"url": simulator.url}}) as plane:
        assert (await plane.chat(GOOD)).status == 200
        assert credentials(simulator) == []
        assert (await plane.chat(GOOD, fault="unauthorized")).status == 502


async def test_own_keys_pass_in_open_mode(serve: Serve, simulator: Simulator) -> None:
    """Open mode without a key of ours: the client's passes as it came, and the upstream's refusal comes back."""
    async with serve(upstreams={"up": {"url": simulator.url}}) as plane:
        assert (await plane.chat("authorization: Bearer sk-own")).status == 200
        assert credentials(simulator) == [(b"authorization", b"Bearer sk-own")]
        assert plane.ended()["tenant"].startswith("key-")
        assert (await plane.chat("authorization: Bearer sk-own", fault="unauthorized")).status == 401


async def test_configured_credentials(serve: Serve, simulator: Simulator) -> None:
    """A credential among an upstream's header fields is ours too: the client's doesn't stand beside it."""
    upstreams = {"up": {"url": simulator.url, "headers": {"api-key": "azure-1"}, "query": {"api-version": "2024-06"}}}
    async with serve(upstreams=upstreams) as plane:
        assert (await plane.chat("authorization: Bearer sk-own")).status == 200
        assert credentials(simulator) == [(b"api-key", b"azure-1")]
        assert simulator.requests[-1].target == b"/v1/chat/completions?api-version=2024-06"
        assert (await plane.chat(fault="unauthorized")).status == 502


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["authorization: Bearer wk-bad"],
        ["authorization: Basic d2stZ29vZA=="],
        [GOOD, GOOD],
        [GOOD, "x-api-key: other"],
        ["authorization: Bearer ' OR 1=1 --"],
        ["authorization: Bearer " + "x" * 8100],
        ["cookie: key=wk-good"],
        ["x-weir-tenant: acme", "x-forwarded-user: acme"],
    ],
    ids=["none", "wrong", "basic", "two", "two-kinds", "sql", "long", "cookie", "claims"],
)
async def test_refused(serve: Serve, simulator: Simulator, lines: list[str]) -> None:
    """Without exactly one good key: 401, and nothing of what was sent comes back."""
    async with serve(keys=[key("wk-good")]) as plane:
        answer = await plane.chat(*lines)
        assert answer.status == 401
        assert answer.error["message"]
        assert b"OR 1=1" not in answer.body
    assert simulator.requests == []


async def test_a_key_in_the_query_is_none(serve: Serve, simulator: Simulator) -> None:
    """Queries end up in logs: a key there opens nothing."""
    async with serve(keys=[key("wk-good")]) as plane:
        for name in ("key", "api_key", "api-key"):
            assert (await plane.get(f"/v1/models?{name}=wk-good")).status == 401
    assert simulator.requests == []


async def test_revoked_on_an_open_connection(serve: Serve) -> None:
    """What a connection was allowed before a key was revoked, it isn't afterwards."""
    async with serve(keys=[key("wk-good")]) as plane, await plane.connect() as client:
        asked = post("/v1/chat/completions", chat(), GOOD)
        assert (await client.ask(asked)).status == 200
        plane.plane.generations.set_keys([key("wk-good", revoked=1.0)])
        assert (await client.ask(asked)).status == 401


async def test_expires_on_an_open_connection(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that expires between two requests of a connection opens the first only."""
    expires = time.time() + 1000
    async with serve(keys=[key("wk-good", expires=expires)]) as plane, await plane.connect() as client:
        asked = post("/v1/chat/completions", chat(), GOOD)
        assert (await client.ask(asked)).status == 200
        assert (await client.ask(asked)).status == 200
        identities: Any = plane.plane.state.identities
        monkeypatch.setattr(identities, "_clock", lambda: expires)
        monkeypatch.setattr("proxy.dataplane.time.time", lambda: expires)
        assert (await client.ask(asked)).status == 401


async def test_models_of_a_key(serve: Serve, simulator: Simulator) -> None:
    """A key for certain models gets 403 for others, before any policy or upstream sees the request."""
    seen: list[str | None] = []

    async def watch(request: Request, forward: Forward) -> Response:
        seen.append(request.model)
        return await forward(request)

    settings: dict[str, Any] = {"policies": [entry("watch")], "registry": {"watch": module(watch)}}
    async with serve(keys=[key("wk-good", models=["gpt-4o-*", "text-*"])], **settings) as plane:
        assert (await plane.chat(GOOD, model="gpt-4o-mini")).status == 200
        for model in ("gpt-4o", "o4-mini", "GPT-4o-mini", "*"):
            answer = await plane.chat(GOOD, model=model)
            assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "model_not_allowed", "model")
        embedded = {"model": "text-embedding-3-small", "input": "x"}
        assert (await plane.post("/v1/embeddings", embedded, GOOD)).status == 200
    assert seen == ["gpt-4o-mini", "text-embedding-3-small"]


async def test_requests_without_a_model(serve: Serve, simulator: Simulator) -> None:
    """A key for certain models can't get around them by naming none."""
    async with serve(keys=[key("wk-good", models=["gpt-4o-*"])]) as plane:
        answer = await plane.post("/v1/chat/completions", {"messages": []}, GOOD)
        assert answer.status in (400, 403)
    assert simulator.requests == []


async def test_own_tags_stay(serve: Serve) -> None:
    """A request adds tags; those of its key it can't change."""
    async with serve(keys=[key("wk-good", tags={"env": "prod"})]) as plane:
        await plane.chat(GOOD, "x-weir-tags: env=test, run=7")
        assert plane.ended()["tags"] == {"env": "prod", "run": "7"}


@pytest.mark.parametrize("line", ["x-weir-tags: =x", "x-weir-tags: a", "x-weir-deadline: soon", "x-weir-deadline: -1s"])
async def test_headers_of_ours_that_say_nothing(serve: Serve, simulator: Simulator, line: str) -> None:
    """A header of ours that can't be understood is an error that names it, not silence."""
    async with serve() as plane:
        answer = await plane.chat(line)
        assert (answer.status, answer.error["param"]) == (400, line.partition(":")[0])


SECRETS = ["wk-canary-key", "sk-canary-own", UPSTREAM_KEY, "canary-prompt", "canary-header", "canary-answer"]


async def leak(request: Request, forward: Forward) -> Response:
    raise ValueError(f"canary-answer {request.field('messages')}")


@pytest.mark.parametrize("policy", [None, leak], ids=["without", "crashing"])
async def test_secrets_reach_no_sink(serve: Serve, simulator: Simulator, policy: Any, caplog: Any, capfd: Any) -> None:
    """Neither keys nor bodies are in the journal, the log, the metrics or an error, whatever goes wrong."""
    keys = [key("wk-canary-key", "key-1")]
    settings: dict[str, Any] = {}
    if policy is not None:
        settings = {"policies": [entry("leak")], "registry": {"leak": module(policy)}}
    told: list[bytes] = []
    async with serve(keys=keys, **settings) as plane:
        good, own = "authorization: Bearer wk-canary-key", "authorization: Bearer sk-canary-own"
        messages = [{"role": "user", "content": "canary-prompt"}]
        for lines in ([good], [own], [good, "x-api-key: sk-canary-own"], [good, "x-other: canary-header"]):
            for fault in (
                "",
                "unauthorized",
                "error-500",
                "first-event-error",
                "mid-error",
                "malformed-event",
                "html-200",
            ):
                for stream in (False, True):
                    answer = await plane.chat(*lines, fault=fault, stream=stream, messages=messages)
                    told += [answer.body if answer.status != 200 else b"", repr(answer.headers).encode()]
        for body in (b'{"messages": "canary-prompt', b'{"model": "canary-prompt", "model": 1}', b'["canary-prompt"]'):
            told.append((await plane.send(post("/v1/chat/completions", body, good))).body)
        told.append((await plane.send(get("/v1/files", good))).body)
        await plane.quiet()
        sinks = {
            "journal": orjson.dumps(plane.journal()),
            "segments": b"".join(path.read_bytes() for path in (plane.home / "journal").iterdir()),
            "log": repr(plane.logged).encode() + caplog.text.encode() + "".join(capfd.readouterr()).encode(),
            "metrics": orjson.dumps(plane.metrics.snapshot()),
            "errors": b"".join(told),
            "repr": _reprs(plane),
        }
    for sink, content in sinks.items():
        for secret in SECRETS:
            assert secret.encode() not in content, f"{secret} in {sink}"


def _reprs(plane: Plane) -> bytes:
    """What a stray `print` of the parts would show."""
    state = plane.plane.state
    upstreams = list(plane.plane.generations.upstreams.values())
    return repr([state.configuration, state.chain, upstreams, state.dispatch, plane.plane.journal]).encode()


async def test_errors_of_policies_are_told_as_they_say(serve: Serve) -> None:
    """A policy's refusal reaches the client with its status, code and headers."""

    async def refuse(request: Request, forward: Forward) -> Response:
        raise WeirError(418, "No tea.", code="teapot", headers=((b"x-why", b"because"),))

    async with serve(policies=[entry("refuse")], registry={"refuse": module(refuse)}) as plane:
        answer = await plane.chat()
    assert (answer.status, answer.error["code"], answer.header(b"x-why")) == (418, "teapot", b"because")
