"""Joins, leaves, failures and slow readers in any order: nobody gets another's answer, or a part of one as if whole.

A state machine against the layer itself, with an upstream that does what the machine says.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies import coalesce
from proxy.body import scan
from proxy.endpoints import endpoint_of
from proxy.errors import WeirError
from proxy.exchange import Attempt, Exchange, Identity, Request
from proxy.faults import Fault
from proxy.response import Outcome, Response
from proxy.stream import Stream
from proxy.wire.sse import event

COST = 1000
CHAT = "/v1/chat/completions"


class Call:
    """What the upstream was asked: answered as the machine says (proxy.stream.Flow)."""

    def __init__(self, number: int, request: Request) -> None:
        self.tenant = request.exchange.identity.tenant
        self.question = request.field("messages")[0]["content"]
        self.streamed = request.field("stream") is True
        self.number = number
        self.pieces: list[bytes] = []
        self.begun: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.stream: Stream | None = None
        self.cancelled = self.over = self.paused = False
        exchange = request.exchange
        self.attempt = Attempt(exchange, request, len(exchange.attempts) + 1, "d", "u", "m")
        exchange.attempts.append(self.attempt)
        exchange.open_answers.append(self)

    def piece(self) -> bytes:
        told = b"%b:%b:%d:%d" % (self.tenant.encode(), self.question.encode(), self.number, len(self.pieces))
        self.pieces.append(event(told).raw)
        return self.pieces[-1]

    def settle(self, outcome: str, cost: int = COST) -> None:
        if not self.over:
            self.over = True
            self.attempt.outcome, self.attempt.nanodollars = outcome, cost
            self.attempt.exchange.charge(cost)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def cancel(self) -> None:
        self.cancelled = True
        self.settle("aborted")


@dataclass
class Client:
    """Somebody who asks, reads when told to, and may leave."""

    tenant: str
    question: str
    streamed: bool
    exchange: Exchange
    task: asyncio.Task[None] | None = None
    reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    got: list[bytes] = field(default_factory=list)
    end: str = ""
    left: bool = False


class Coalescing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clients: list[Client] = []
        self.calls: list[Call] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.backgrounds: list[Exchange] = []
        services: Any = SimpleNamespace(name="coalesce", source="x", observing=False, spawn=self.spawn)
        self.policy = coalesce.build(coalesce.Config(sampled=True, keep=65536), services)

    def teardown(self) -> None:
        for call in self.calls:
            self.finish(call)
        for client in self.clients:
            for _ in range(200):
                client.reads.release()
        self.run(80)
        for client in self.clients:
            assert client.end, f"{client} was forgotten"
        self.judge()
        assert len(self.policy.in_flight) == 0
        assert not self.tasks, self.tasks
        paid = sum(client.exchange.nanodollars or 0 for client in self.clients)
        # What a detached call cost is paid by those who read it; where all left, its own exchange alone shows it.
        lost = sum(
            call.attempt.nanodollars or 0
            for call in self.calls
            if call.attempt.exchange in self.backgrounds and not self.readers(call)
        )
        assert paid + lost == sum(call.attempt.nanodollars or 0 for call in self.calls)
        self.loop.close()

    def readers(self, call: Call) -> bool:
        return call.attempt.outcome == "complete" and any(
            any(d.action == "followed" or d.action == "shared" for d in c.exchange.decisions)
            or (c.exchange.nanodollars or 0)
            for c in self.clients
            if c.tenant == call.tenant and c.question == call.question and call.streamed == c.streamed
        )

    # --- the world

    def spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = self.loop.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def run(self, turns: int = 12) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    async def forward(self, request: Request) -> Response:
        call = Call(len(self.calls), request)
        self.calls.append(call)
        if request.exchange.kind != "client" and request.exchange not in self.backgrounds:
            self.backgrounds.append(request.exchange)
        try:
            return await call.begun
        except BaseException:
            call.cancel()
            raise

    async def ask(self, client: Client) -> None:
        raw = {"model": "m", "messages": [{"role": "user", "content": client.question}], "stream": client.streamed}
        endpoint = endpoint_of("POST", CHAT)
        assert endpoint is not None
        request = Request(client.exchange, endpoint, "POST", CHAT.encode(), CHAT, [], scan(orjson.dumps(raw)), "m")
        outcome = Outcome.ABORTED
        try:
            response = await self.policy(request, forward=self.forward)
            pieces = response.__aiter__()
            try:
                while True:
                    await client.reads.acquire()
                    try:
                        client.got.append(await pieces.__anext__())
                    except StopAsyncIteration:
                        break
            finally:
                await pieces.aclose()  # type: ignore[attr-defined]
            client.end, outcome = "whole", Outcome.COMPLETE
        except WeirError as error:
            client.end, outcome = f"failed {error.code}", Outcome.PARTIAL
        except asyncio.CancelledError:
            client.end = "left"
        finally:
            client.exchange.end(outcome)

    # --- rules

    @rule(
        tenant=st.sampled_from("ab"),
        question=st.sampled_from(["q", "r"]),
        streamed=st.booleans(),
        bounded=st.booleans(),
    )
    def join(self, tenant: str, question: str, streamed: bool, bounded: bool) -> None:
        deadline = self.loop.time() + 3600 if bounded else math.inf
        exchange = Exchange(Identity(tenant, f"key-{tenant}"), "chat.completions", deadline=deadline, spawn=self.spawn)
        client = Client(tenant, question, streamed, exchange)
        self.clients.append(client)
        client.task = self.loop.create_task(self.ask(client))
        self.run()

    @precondition(lambda self: any(not client.end and not client.left for client in self.clients))
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        """As the server does it: cancelled, unless others want what it calls."""
        client = data.draw(st.sampled_from([one for one in self.clients if not one.end and not one.left]))
        client.left = True
        if not client.exchange.outlives_client():
            assert client.task is not None
            client.task.cancel()
        self.run()

    @precondition(lambda self: any(not client.end for client in self.clients))
    @rule(data=st.data(), count=st.integers(1, 4))
    def read(self, data: Any, count: int) -> None:
        client = data.draw(st.sampled_from([one for one in self.clients if not one.end]))
        for _ in range(count):
            client.reads.release()
        self.run()

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(data=st.data(), count=st.integers(1, 3))
    def tell(self, data: Any, count: int) -> None:
        """The upstream goes on."""
        call = data.draw(st.sampled_from([one for one in self.calls if not one.over]))
        if call.streamed:
            self.begin(call)
            for _ in range(count):
                call.stream.feed([event_of(call.piece())])
        else:
            self.finish(call)
        self.run()

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        self.finish(data.draw(st.sampled_from([one for one in self.calls if not one.over])))
        self.run()

    @precondition(lambda self: any(not call.over for call in self.calls))
    @rule(data=st.data(), code=st.sampled_from(["upstream_unreachable", "upstream_500", None]))
    def fail(self, data: Any, code: str | None) -> None:
        call = data.draw(st.sampled_from([one for one in self.calls if not one.over]))
        error = WeirError(502, "It failed.", code=code)
        if code is not None:
            Fault(error, billed=False)
        call.settle("failed", 0)
        if call.begun.done():
            assert call.stream is not None
            call.stream.end(error)
        else:
            call.begun.set_exception(error)
        self.run()

    def begin(self, call: Call) -> None:
        if not call.begun.done():
            call.stream = Stream(call)
            call.begun.set_result(Response(200, [(b"content-type", b"text/event-stream")], call.stream))
            self.run()

    def finish(self, call: Call) -> None:
        if call.over:
            return
        if not call.streamed:
            call.settle("complete")
            call.begun.set_result(Response(200, [(b"content-type", b"application/json")], call.piece()))
        else:
            self.begin(call)
            call.settle("complete")
            assert call.stream is not None
            call.stream.end()
        self.run()

    # --- what holds

    @invariant()
    def judge(self) -> None:
        """Everybody's answer is that of one call to its own question; whole if it looks so."""
        for client in self.clients:
            got = [piece for piece in client.got if not piece.startswith(b":")]
            calls = [
                call
                for call in self.calls
                if (call.tenant, call.question, call.streamed) == (client.tenant, client.question, client.streamed)
            ]
            assert any(got == call.pieces[: len(got)] for call in calls) or not got
            if client.end == "whole":
                assert any(got == call.pieces and call.attempt.outcome == "complete" for call in calls)

    @invariant()
    def nobody_calls_for_nobody(self) -> None:
        """A call that runs has somebody who waits for it."""
        for call in self.calls:
            if not call.over:
                assert any(
                    not client.left and not client.end
                    for client in self.clients
                    if (client.tenant, client.question, client.streamed) == (call.tenant, call.question, call.streamed)
                ), call.__dict__

    @invariant()
    def one_call_at_a_time(self) -> None:
        """Equal requests never have two calls that could both be joined."""
        assert len(self.policy.in_flight) <= 8


def event_of(raw: bytes) -> Any:
    return event(raw.removeprefix(b"data: ").strip())


Coalescing.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, print_blob=True)
TestCoalescing = Coalescing.TestCase
