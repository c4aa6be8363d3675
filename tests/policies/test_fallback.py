"""`fallback`: where a request goes on, after which failures, and what its client gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from pydantic import ValidationError

from policies import allow, fallback, retry
from policies.fallback import Config, ends, takes, told
from proxy.errors import RATE_LIMIT, WeirError
from proxy.exchange import Attempt, Forward, Request
from proxy.failures import KINDS, Failure, Kind, Try
from proxy.response import Outcome, Response
from proxy.simulator import Simulator
from tests.plane.conftest import Serve
from tests.plane.patterns import module
from tests.plane.questions import STREAMED, UNARY, in_band_error
from tests.plane.questions import Kind as Question
from tests.plane.running import Plane, entry, key
from tests.wire.raw import chat, post

ASKED, SECOND, THIRD = "gpt-4o", "gpt-4o-mini", "gpt-4.1"
QUESTIONS = [q for q in (*UNARY, *STREAMED) if not q.anthropic and q.name != "embeddings"]


@asynccontextmanager
async def falling(serve: Serve, *to: Any, **options: Any) -> AsyncIterator[Plane]:
    """A data plane with this policy; `settings` are of the data plane."""
    settings = options.pop("settings", {})
    policies = [entry("fallback", 3, to=list(to) or [SECOND], **options)]
    async with serve(policies=policies, registry={"fallback": fallback}, **settings) as plane:
        yield plane


def models_asked(plane: Plane) -> list[str]:
    return [record["model"] for record in plane.journal("reserved")]


LEADS_ON = {
    "row 5, rate limited": "rate-limit:2",
    "row 6, rate limited for an hour": "rate-limit:3600",
    "row 7, quota exhausted": "quota",
    "row 8, key refused": "unauthorized",
    "row 9, not found": "not-found",
    "row 11, unavailable": "error-503",
    "row 12, overloaded": "overloaded-529",
    "row 33, redirect": "redirect",
}


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
@pytest.mark.parametrize("row", LEADS_ON)
async def test_another_model(serve: Serve, simulator: Simulator, question: Question, row: str) -> None:
    """P rows: the next model answers at once; the header says which, and only its call was paid for."""
    simulator.fault(LEADS_ON[row], model=ASKED)
    async with falling(serve, SECOND) as plane:
        answer = await plane.post(question.path, {**question.fields, "model": ASKED})
        first, second = plane.journal("settled")
        assert models_asked(plane) == [ASKED, SECOND]
        decision = plane.ended()["decisions"][0]
    assert answer.status == 200
    assert question.done.removeprefix(b"data: ") in answer.body
    assert (answer.header(b"x-weir-model") or b"").startswith(SECOND.encode())
    assert answer.header(b"x-weir-policies") == b"fallback=fell_back"
    assert (decision["action"], decision["source"]) == ("fell_back", "policies.yaml:3")
    assert (first["nanodollars"], second["outcome"]) == (0, "complete")
    assert (len(simulator.requests), simulator.invoice().total.requests) == (2, 1)


@pytest.mark.parametrize("question", [q for q in STREAMED if not q.anthropic], ids=str)
async def test_row_16_first_event(serve: Serve, simulator: Simulator, question: Question) -> None:
    """Row 16: nothing of the failed stream reaches the client."""
    simulator.fault("first-event-error", model=ASKED)
    async with falling(serve) as plane:
        answer = await plane.post(question.path, {**question.fields, "model": ASKED})
    assert answer.status == 200
    assert b"server had an error" not in answer.body
    assert question.done in answer.body
    assert simulator.invoice().total.requests == 1


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_row_10_longer_context(serve: Serve, simulator: Simulator, stream: bool) -> None:
    """Row 10: too long a prompt goes to the model with the longer context, and to that one only."""
    simulator.fault("context-length", model=ASKED)
    async with falling(serve, SECOND, {"model": THIRD, "on": "context_length"}) as plane:
        answer = await plane.chat(model=ASKED, stream=stream)
        assert answer.status == 200
        assert models_asked(plane) == [ASKED, THIRD]
        assert (answer.header(b"x-weir-model") or b"").startswith(THIRD.encode())


async def test_row_10_passes_unless_named(serve: Serve, simulator: Simulator) -> None:
    """Row 10: where no target is for it, the upstream's refusal is the answer."""
    simulator.fault("context-length", model=ASKED)
    async with falling(serve, SECOND) as plane:
        answer = await plane.chat(model=ASKED)
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert plane.ended()["attempts"] == 1


async def test_by_class_of_the_latest_failure(serve: Serve, simulator: Simulator) -> None:
    """Each failure looks for its own target among those that are left."""
    simulator.fault("rate-limit:2", model=ASKED)
    simulator.fault("context-length", model=SECOND)
    async with falling(serve, {"model": THIRD, "on": ["context_length"]}, SECOND, "gpt-4.1-nano") as plane:
        assert (await plane.chat(model=ASKED)).status == 200
        assert models_asked(plane) == [ASKED, SECOND, THIRD]


BILLED = {
    "row 11, server error": ("error-500", 502),
    "row 13, no answer in time": ("no-headers", 504),
    "row 14, reset": ("reset-after-request", 502),
    "row 28, HTML": ("html-200", 502),
    "row 29, truncated": ("truncated-json", 502),
}


@pytest.mark.parametrize("row", BILLED)
async def test_maybe_billed(serve: Serve, simulator: Simulator, row: str) -> None:
    """A rows: nothing follows what may have been paid for; with `double_bill` the next model does."""
    fault, status = BILLED[row]
    simulator.fault(fault, model=ASKED)
    settings = {"timeouts": {"total_s": 0.3}}
    async with falling(serve, settings=settings) as plane:
        answer = await plane.chat(model=ASKED)
        assert (answer.status, answer.header(b"x-should-retry")) == (status, b"false")
    assert len(simulator.requests) == 1
    async with falling(serve, double_bill=True, settings=settings) as plane:
        answer = await plane.chat(model=ASKED)
        assert (answer.status, plane.journal("settled")[-2]["known"]) == (200, "unknown")
    assert len(simulator.requests) == 3


async def test_after_the_first_event(serve: Serve, simulator: Simulator) -> None:
    """A stream that breaks later is not switched, whatever the policy accepts."""
    simulator.fault("mid-error", model=ASKED)
    async with falling(serve, double_bill=True) as plane:
        answer = await plane.chat(model=ASKED, stream=True)
        assert in_band_error(answer)["message"]
        assert models_asked(plane) == [ASKED]


async def test_everything_fails(serve: Serve, simulator: Simulator) -> None:
    """The client gets the first failure as it was; each model was asked once."""
    simulator.fault("rate-limit:9", model=ASKED)
    simulator.fault("error-503")
    async with falling(serve, SECOND, THIRD) as plane:
        answer = await plane.chat(model=ASKED)
        assert (answer.status, answer.header(b"retry-after")) == (429, b"9")
        assert answer.error["code"] == "rate_limit_exceeded"
        assert models_asked(plane) == [ASKED, SECOND, THIRD]
        assert plane.ended()["nanodollars"] == 0


async def test_the_last_may_be_billed(serve: Serve, simulator: Simulator) -> None:
    """If a later call may have been paid for, that is what the client is told, so that it doesn't ask again."""
    simulator.fault("error-503", model=ASKED)
    simulator.fault("error-500", model=SECOND)
    async with falling(serve, SECOND, THIRD) as plane:
        answer = await plane.chat(model=ASKED)
        assert (answer.status, answer.header(b"x-should-retry")) == (502, b"false")
        assert models_asked(plane) == [ASKED, SECOND]


async def test_a_key_for_certain_models(serve: Serve, simulator: Simulator) -> None:
    """A model that the client's key may not use is never used, however everything else fails."""
    simulator.fault("error-503", model=ASKED)
    keys = [key("wk-few", models=(ASKED, "gpt-4.1*"))]
    async with falling(serve, SECOND, "gpt-4.1-nano", settings={"keys": keys}) as plane:
        answer = await plane.send(post("/v1/chat/completions", chat(model=ASKED), "authorization: Bearer wk-few"))
        assert answer.status == 200
        assert models_asked(plane) == [ASKED, "gpt-4.1-nano"]
        passed, fell = plane.ended()["decisions"]
    assert (passed["action"], passed["numbers"]) == ("passed_over", {"model": SECOND, "why": "model_not_allowed"})
    assert fell["action"] == "fell_back"


async def test_layers_further_in_may_refuse_a_target(serve: Serve, simulator: Simulator) -> None:
    """A model that an inner layer refuses, or nobody offers, is passed over; alone, the first failure stands."""
    simulator.fault("error-503", model=ASKED)
    models = {ASKED: {"upstream": "up"}, SECOND: {"upstream": "up"}, THIRD: {"upstream": "up"}}
    policies = [entry("fallback", to=["unknown", SECOND, THIRD]), entry("allow", deny_models=[SECOND])]
    registry = {"fallback": fallback, "allow": allow}
    async with serve(policies=policies, registry=registry, models=models) as plane:
        assert (await plane.chat(model=ASKED)).status == 200
        assert models_asked(plane) == [ASKED, THIRD]
        why = [d["numbers"]["why"] for d in plane.ended()["decisions"] if d["action"] == "passed_over"]
        assert why == ["model_not_found", "model_not_allowed"]
        simulator.fault("error-503", model=THIRD)
        assert (await plane.chat(model=ASKED)).status == 503


async def test_layers_further_out_may_refuse_a_target(serve: Serve, simulator: Simulator) -> None:
    """An `allow` further out isn't got round, nor is one that a reload changes while the fallback stays as it was."""
    simulator.fault("error-503", model=ASKED)
    last = entry("fallback", 2, to=[SECOND, THIRD])
    policies = [entry("allow", 1, deny_models=[SECOND]), last]
    async with serve(policies=policies, registry={"fallback": fallback, "allow": allow}) as plane:
        assert (await plane.chat(model=ASKED)).status == 200
        assert models_asked(plane) == [ASKED, THIRD]
        passed = plane.ended()["decisions"][0]
        assert passed["numbers"] == {"model": SECOND, "why": "model_not_allowed"}
        fewer = entry("allow", 1, deny_models=[SECOND, THIRD])
        await plane.plane.reconfigure(plane.remake([fewer, last]), [], None)
        assert (await plane.chat(model=ASKED)).status == 503
        assert models_asked(plane) == [ASKED, THIRD, ASKED]


async def test_an_allow_for_others_holds_for_them_only(serve: Serve, simulator: Simulator) -> None:
    """Which `allow` is met is told by the request as the client made it."""
    simulator.fault("error-503", model=ASKED)
    policies = [entry("allow", 1, match={"team": "ml"}, deny_models=[SECOND]), entry("fallback", 2, to=[SECOND])]
    keys = [key("wk-ml", team="ml"), key("wk-web", id="key-2", team="web")]
    async with serve(policies=policies, registry={"fallback": fallback, "allow": allow}, keys=keys) as plane:
        for secret, status in (("wk-ml", 503), ("wk-web", 200)):
            asked = post("/v1/chat/completions", chat(model=ASKED), f"authorization: Bearer {secret}")
            assert (await plane.send(asked)).status == status


async def test_a_refused_first_call_is_final(serve: Serve, simulator: Simulator) -> None:
    """What a guard refuses isn't a failure of the model: no other one is tried in its place."""

    async def refuse(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> None:
            raise WeirError(429, "The budget is used up.", type=RATE_LIMIT, code="budget_exceeded")

        request.exchange.guard(guard)
        return await forward(request)

    policies = [entry("fallback", to=[SECOND]), entry("refuse")]
    async with serve(policies=policies, registry={"fallback": fallback, "refuse": module(refuse)}) as plane:
        assert (await plane.chat(model=ASKED)).error["code"] == "budget_exceeded"
    assert simulator.requests == []


@asynccontextmanager
async def three(serve: Serve, simulator: Simulator, **options: Any) -> AsyncIterator[tuple[Plane, Simulator]]:
    """`gpt-4o` at two upstreams, the first of which gets nearly all; the other model at the second only."""
    async with Simulator(seed=2) as first:
        upstreams = {"first": {"url": first.url}, "second": {"url": simulator.url}}
        deployments = [{"upstream": "first", "weight": 1e6}, {"upstream": "second"}]
        models = {ASKED: {"deployments": deployments}, "*": {"upstream": "second"}}
        async with falling(serve, settings={"upstreams": upstreams, "models": models}, **options) as plane:
            yield plane, first


async def test_other_deployments_first(serve: Serve, simulator: Simulator) -> None:
    """The same model elsewhere comes before another model; both deployments down, the other model answers."""
    async with three(serve, simulator) as (plane, first):
        first.fault("rate-limit:3600")
        assert (await plane.chat(model=ASKED)).status == 200
        simulator.fault("error-503", model=ASKED)
        assert (await plane.chat(model=ASKED)).status == 200
        asked = [(record["upstream"], record["model"]) for record in plane.journal("reserved")]
        actions = [decision["action"] for end in plane.journal("ended") for decision in end["decisions"]]
    assert asked == [("first", ASKED), ("second", ASKED), ("first", ASKED), ("second", ASKED), ("second", SECOND)]
    assert actions == ["other_deployment", "other_deployment", "fell_back"]


async def test_no_other_deployments(serve: Serve, simulator: Simulator) -> None:
    """`deployments: false` goes to the other model at once."""
    async with three(serve, simulator, deployments=False) as (plane, first):
        first.fault("error-503")
        assert (await plane.chat(model=ASKED)).status == 200
        assert models_asked(plane) == [ASKED, SECOND]


async def test_retries_are_used_up_first(serve: Serve, simulator: Simulator) -> None:
    """Outside of `retry`, a model is given up when its tries are; the next one has tries of its own."""
    simulator.fault("error-503", model=ASKED)
    simulator.fault("error-503", model=SECOND, first=1)
    policies = [entry("fallback", to=[SECOND]), entry("retry", attempts=2, backoff="0s")]
    async with serve(policies=policies, registry={"fallback": fallback, "retry": retry}) as plane:
        assert (await plane.chat(model=ASKED)).status == 200
        assert models_asked(plane) == [ASKED, ASKED, SECOND, SECOND]


async def test_guards_see_every_attempt(serve: Serve, simulator: Simulator) -> None:
    """Each model's call is admitted by itself, at its own price; a target that the budget refuses is passed over."""
    asked: list[str] = []

    async def watch(request: Request, forward: Forward) -> Response:
        async def guard(attempt: Attempt) -> None:
            asked.append(attempt.model)
            if attempt.model == SECOND:
                raise WeirError(429, "Too much.", type=RATE_LIMIT, code="budget_exceeded")

        request.exchange.guard(guard)
        return await forward(request)

    simulator.fault("error-503", model=ASKED)
    policies = [entry("watch"), entry("fallback", to=[SECOND, THIRD])]
    async with serve(policies=policies, registry={"fallback": fallback, "watch": module(watch)}) as plane:
        answer = await plane.chat(model=ASKED)
    assert answer.status == 200
    assert asked == [ASKED, SECOND, THIRD]
    assert (answer.header(b"x-weir-model") or b"").startswith(THIRD.encode())


async def test_taps_of_lost_answers(serve: Serve, simulator: Simulator) -> None:
    """A layer further in that looks at a failed answer is told that nobody got it."""
    outcomes: list[Any] = []

    async def look(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.tap(lambda seen: outcomes.append((request.model, seen)) if isinstance(seen, Outcome) else None)
        return response

    simulator.fault("rate-limit:2", model=ASKED)
    policies = [entry("fallback", to=[SECOND]), entry("look")]
    async with serve(policies=policies, registry={"fallback": fallback, "look": module(look)}) as plane:
        assert (await plane.chat(model=ASKED)).status == 200
    assert sorted(outcomes) == [(ASKED, Outcome.ABORTED), (SECOND, Outcome.COMPLETE)]


async def test_what_cannot_be_changed(serve: Serve, simulator: Simulator) -> None:
    """A request that isn't understood has no other model; its failure is passed."""
    simulator.fault("error-503")
    async with falling(serve) as plane:
        assert (await plane.get("/v1/models")).status == 503
    assert len(simulator.requests) == 1


async def test_embeddings_keep_their_model(serve: Serve, simulator: Simulator) -> None:
    """Vectors of two models can't be compared, so another model's answer would be worse than none."""
    simulator.fault("error-503")
    async with falling(serve, "text-embedding-3-large") as plane:
        answer = await plane.post("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x"})
        assert answer.status == 503
        assert models_asked(plane) == ["text-embedding-3-small"]


async def test_what_the_sdk_sees(serve: Serve, simulator: Simulator) -> None:
    """OpenAI's SDK, its own retries off, reads the other model's answer, streamed and not."""
    simulator.fault("quota", model=ASKED)
    words: Any = [{"role": "user", "content": "what is 6*7?"}]
    async with falling(serve) as plane, AsyncOpenAI(base_url=plane.url, api_key="sk-x", max_retries=0) as client:
        answer = await client.chat.completions.create(model=ASKED, messages=words)
        assert answer.model.startswith(SECOND)
        stream = await client.chat.completions.create(model=ASKED, messages=words, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


# --- the decisions


@given(st.sampled_from(KINDS), st.booleans(), st.booleans(), st.booleans())
def test_what_may_be_paid_twice(kind: Kind, billed: bool, accepted: bool, may_repeat: bool) -> None:
    """The chain ends at what may be billed, unless that is accepted and makes nothing twice."""
    config = Config(to=(), double_bill=accepted)
    assert ends(config, Failure(kind, 500, billed), may_repeat) is (billed and not (accepted and may_repeat))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: Kind) -> None:
    """A target's own kinds count instead of the policy's; too long a prompt is too long elsewhere as well."""
    config = Config.model_validate({"to": ["a", {"model": "b", "on": kind}]})
    failure = Failure(kind, 400, False)
    assert takes(config, failure, config.to[1])
    assert takes(config, failure, config.to[0]) is (kind in config.on)
    everything = Config.model_validate({"to": ["a"], "on": list(KINDS)})
    assert takes(everything, failure, None) is (kind not in ("context_length", "content_filter", "rejected"))


def one(kind: Kind, billed: bool) -> Try:
    return Try(WeirError(500, "x"), [], Failure(kind, 500, billed))


def test_which_failure_is_told() -> None:
    """The first one, unless the last may have been billed."""
    first, last, paid = one("overloaded", False), one("not_found", False), one("broken", True)
    assert told([first, last]) is first
    assert told([first, paid]) is paid
    assert told([first]) is first


@pytest.mark.parametrize("options", [{"to": [{"on": "quota"}]}, {"to": [{"model": "a", "on": "slow"}]}, {"too": ["a"]}])
def test_options_that_are_none(options: dict[str, Any]) -> None:
    """What can't be meant is an error of the file."""
    with pytest.raises(ValidationError):
        Config.model_validate(options)


def test_foretold() -> None:
    """`weir explain` says where it would go on."""
    config = Config.model_validate({"to": [{"model": "b", "on": "context_length"}]})
    request: Any = SimpleNamespace()
    assert fallback.foretell(config, request) == (
        "after a failure: the model's other deployments, then b (on context_length)"
    )
