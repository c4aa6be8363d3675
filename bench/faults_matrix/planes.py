"""One process with a simulated provider, whose every request is checked against the journal, and planes before it.

The planes are those of the tests, so that journal, connections and clock are the production's own. What shows by a time
limit meets a plane whose limits are scaled down; all else one whose limits are never reached, so that a slow machine
changes nothing. Upstreams that can't be reached have a plane each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.faults_matrix.kinds import TENANTS, answer, question
from proxy.config import PolicyEntry
from proxy.journal import Follower
from proxy.pricing import RateCards
from proxy.simulator import Simulator
from proxy.simulator.certificates import Authority
from proxy.simulator.incoming import Incoming
from proxy.simulator.ports import UNKNOWN_HOST_URL, BlackHole, refused_url
from proxy.simulator.scenario import Known, Scenario
from tests.plane.running import Plane, key, running

CASE = b"x-case"  # a header that passes through, as all do that nobody knows
LIMITS = {"event_bytes": 2**20}
QUICK = {"total_s": 3.0, "stream_idle_s": 1.0}
PATIENT = {"total_s": 300, "stream_idle_s": 300, "connect_s": 10}
PATIENCE_S = 14  # of whoever waits for something that must come soon
ANSWER_S = 120  # of a client whose answer may take as long as the machine is slow
SILENT = {"heartbeat_s": 300}  # a comment would commit the status of what is only slow here
UNREACHABLE = ("refused", "unknown name", "black hole", "bad certificate")


def secret_of(tenant: str) -> str:
    """A tenant's virtual key."""
    return f"wk-{tenant}"


@dataclass
class World:
    """What runs."""

    simulator: Simulator
    planes: dict[str, Plane] = field(default_factory=dict)
    unannounced: list[str] = field(default_factory=list)  # I1: requests that no `reserved` on disk spoke of

    _here: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    _gone: defaultdict[str, asyncio.Future[float]] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.get_running_loop().create_future())
    )

    async def arrived(self, case: str) -> None:
        """Waits until the upstream has the request."""
        async with asyncio.timeout(PATIENCE_S):
            await self._here[case].wait()

    async def departed(self, case: str) -> float:
        """Waits until the upstream noticed that nobody wants the answer; when that was, on the monotonic clock."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._gone[case]

    def watch(self, announced: _Announced) -> None:
        """Looks at each request as it arrives upstream, and at each that is given up."""
        perform, left = self.simulator._provider.perform, self.simulator._record.left

        def performed(request: Incoming) -> Any:
            case = request.fields.get(CASE, b"").decode()
            announced.arrived(case)
            self._here[case].set()
            return perform(request)

        def gone(request: Incoming, *rest: Any) -> None:
            left(request, *rest)
            noticed = self._gone[request.fields.get(CASE, b"").decode()]
            if not noticed.done():
                noticed.set_result(time.monotonic())

        self.simulator._provider.perform = performed  # type: ignore[method-assign]
        self.simulator._record.left = gone  # type: ignore[method-assign, assignment]

    def records(self) -> list[dict[str, Any]]:
        """The records of all planes."""
        return [record for plane in self.planes.values() for record in plane.journal()]


class _Announced:
    """I1, looked at in the moment when the upstream has the request: it is reserved on disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._followers: list[Follower] = []
        self._reserved: Counter[str] = Counter()
        self._arrived: Counter[str] = Counter()

    def follow(self, homes: Iterable[Path]) -> None:
        """The journals in which requests must be announced."""
        self._followers = [Follower(home) for home in homes]

    def arrived(self, case: str) -> None:
        """A request of this case has come to the upstream."""
        self._arrived[case] += 1
        if not self._announced(case):
            for follower in self._followers:
                self._reserved.update(
                    record["tags"].get("case", "") for record in follower.poll() if record["event"] == "reserved"
                )
        if not self._announced(case):
            self._world.unannounced.append(case)

    def _announced(self, case: str) -> bool:
        """An attempt may be sent twice: on a kept connection that turns out to be dead (row 15)."""
        return self._arrived[case] <= 2 * self._reserved[case]


@asynccontextmanager
async def world(
    directory: Path,
    cards: RateCards,
    seed: int,
    policies: Iterable[PolicyEntry] = (),
    unreachable: bool = True,
    **options: Any,
) -> AsyncIterator[World]:
    """Everything running."""
    scenario = Scenario(answers=tuple(Known(question=question(t), right=answer(t), wrong=answer(t)) for t in TENANTS))
    keys = [key(secret_of(tenant), tenant, org="river", team=tenant) for tenant in TENANTS]
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(seed=seed, scenario=scenario, remember=0))
        made = World(simulator)
        announced = _Announced(made)
        made.watch(announced)

        async def start(name: str, url: str, timeouts: Mapping[str, float], **more: Any) -> None:
            silent = SILENT if timeouts is not QUICK else {}
            settings = {"timeouts": {**timeouts}, "limits": LIMITS, **silent, **options, **more}
            plane = running(url, directory / name, policies, keys=keys, cards=cards, **settings)
            made.planes[name] = await stack.enter_async_context(plane)

        await start("patient", simulator.url, PATIENT)
        await start("quick", simulator.url, QUICK)
        if unreachable:
            await start("refused", refused_url(), PATIENT)
            await start("unknown name", UNKNOWN_HOST_URL, PATIENT)
            await start("black hole", stack.enter_context(BlackHole()).url, {**PATIENT, "connect_s": 0.3})
            authority, other = Authority(directory), Authority(directory)
            liar = await stack.enter_async_context(Simulator(tls=other.serving("127.0.0.1")))
            await start("bad certificate", liar.url, PATIENT, upstream={"ca": str(authority.path)})
        announced.follow([plane.home for plane in made.planes.values()])
        yield made
