"""The deployments of one model, and which of them is asked next.

Rules:
1. A deployment without a rival is returned at once: nothing is looked at.
2. Whoever can't be called now (`Bar`) is left out as long as another can. If nobody can, the least bad one is called,
   and the exchange notes it.
3. If all have said when they want to be called again, or have all the calls that they may have, nothing is sent:
   `NoDeploymentError`, which a layer may treat like any failed attempt.
4. What an exchange has given up (`avoid`) comes only where no other is left.
"""

from __future__ import annotations

import math
import random
import time
import zlib
from typing import Final, Literal

from proxy.body import Body
from proxy.config.balancing import Outliers
from proxy.errors import OVERLOADED, WeirError
from proxy.exchange import Request
from proxy.upstreams.balance import quickest, warmest, weighted
from proxy.upstreams.deployment import Bar, Clock, Deployment
from proxy.upstreams.outliers import standing_out
from proxy.upstreams.prefix import Warm, marks_of

Balance = Literal["weighted", "least-latency", "prefix-affinity"]

LOOK_S: Final = 1.0  # how often deployments are compared
WINDOW_S: Final = 30.0  # over how long
_BYTES_A_TOKEN: Final = 4
_NOTHING: Final[frozenset[str]] = frozenset()
_OUTLIERS: Final = Outliers()


class NoDeploymentError(WeirError):
    """Nobody could be called; `deployment` is the one that can be soonest."""

    def __init__(self, deployment: Deployment, wait_s: float) -> None:
        super().__init__(
            503,
            f"No deployment of this model can take a request now; the first is expected to in {wait_s:.3g} s.",
            type=OVERLOADED,
            code="no_deployment_available",
            headers=((b"retry-after", b"%d" % max(math.ceil(wait_s), 1)),),
        )
        self.billed = False
        self.deployment = deployment


class Route:
    """Where what a client asked for is served."""

    __slots__ = (
        "_alone",
        "_balance",
        "_clock",
        "_look_at",
        "_max_load",
        "_outliers",
        "_random",
        "_warm",
        "_window_ends",
        "deployments",
        "pattern",
    )

    def __init__(
        self,
        deployments: list[Deployment],
        balance: Balance = "weighted",
        *,
        outliers: Outliers = _OUTLIERS,
        max_load: float = 2.0,
        pattern: str = "*",
        clock: Clock = time.monotonic,
        draw: Clock = random.random,
    ) -> None:
        self.deployments = deployments
        self.pattern = pattern
        self._balance = balance
        self._outliers = outliers
        self._max_load = max_load
        self._clock, self._random = clock, draw
        self._warm = Warm(clock())
        self._look_at = self._window_ends = 0.0
        for deployment in deployments:
            deployment.among(deployments)
        self._alone = len(deployments) == 1 and deployments[0].max_concurrent is None

    def __repr__(self) -> str:
        return f"<Route {self.pattern} {self._balance} {self.deployments}>"

    def pick(self, request: Request, avoid: frozenset[str] = _NOTHING) -> Deployment:
        """The one to ask. Raises NoDeploymentError."""
        if self._alone:
            return self.deployments[0]
        now = self._clock()
        if now >= self._look_at:
            self._compare(now)
        deployments = self.deployments
        if avoid:
            others = [deployment for deployment in deployments if deployment.label not in avoid]
            if others and (found := self._among(others, request, now)) is not None:
                return found
        found = self._among(deployments, request, now)
        if found is None:
            raise self._nobody(request, now)
        return found

    def _among(self, deployments: list[Deployment], request: Request, now: float) -> Deployment | None:
        model, tokens = request.model, _tokens(request)
        bars = [deployment.bar(model, tokens, now) for deployment in deployments]
        least = min(bars)
        if least is Bar.FREE:
            if max(bars) is not Bar.FREE:
                deployments = [one for one, bar in zip(deployments, bars, strict=True) if bar is Bar.FREE]
        elif least >= Bar.WAITING:
            return None
        else:
            deployments = [one for one, bar in zip(deployments, bars, strict=True) if bar is least]
            why = least.name.lower()
            request.exchange.note("deployments", "least_bad", why=why, deployments=len(self.deployments))
        return self._balanced(deployments, request, now)

    def _balanced(self, deployments: list[Deployment], request: Request, now: float) -> Deployment:
        if len(deployments) == 1:
            return deployments[0]
        if self._balance == "weighted":
            return weighted(deployments)
        if self._balance == "least-latency":
            return quickest(deployments, request.field("stream") is True, now, self._random)
        return warmest(deployments, marks_of(request, self._salt(request)), self._warm, self._max_load, now)

    def _salt(self, request: Request) -> int:
        """What keeps prompts apart that no cache shares: of other models, and of clients with keys of their own."""
        if self.deployments[0].upstream.own_key:
            return zlib.crc32((request.model or "").encode())
        return zlib.crc32(f"{request.exchange.identity.tenant}/{request.model}".encode())

    def _nobody(self, request: Request, now: float) -> NoDeploymentError:
        model = request.model
        first = min(self.deployments, key=lambda deployment: deployment.waits_s(model, now))
        request.exchange.note("deployments", "none_available", deployments=len(self.deployments))
        return NoDeploymentError(first, first.waits_s(model, now))

    def _compare(self, now: float) -> None:
        """Leaves out for a while whoever stands out from the others."""
        self._look_at = now + LOOK_S
        rules = self._outliers
        by_latency = self._balance != "weighted"
        for index, why in standing_out([one.seen(now) for one in self.deployments], rules, by_latency):
            deployment = self.deployments[index]
            for_s = min(rules.eject_s * 2.0**deployment.ejections, rules.longest_s)
            deployment.eject(now, for_s)
            upstream = deployment.upstream
            upstream.tell(
                "deployment_ejected", upstream=upstream.name, deployment=deployment.label, why=why, for_s=for_s
            )
        if now >= self._window_ends:
            self._window_ends = now + WINDOW_S
            for deployment in self.deployments:
                deployment.reviewed(now, WINDOW_S)


def _tokens(request: Request) -> int:
    """What a request may count as; near enough to stay clear of a limit."""
    body = request.body
    return len(body) // _BYTES_A_TOKEN if isinstance(body, (Body, bytes)) else 0
