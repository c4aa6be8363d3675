"""From model names to deployments, for one configuration."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping

from proxy.config import Configuration
from proxy.config import Deployment as Place
from proxy.errors import WeirError
from proxy.metrics import DeploymentSeries
from proxy.upstreams.deployment import Clock, Deployment
from proxy.upstreams.route import Route
from proxy.upstreams.upstream import Upstream


class Routes:
    """All that can be asked for."""

    def __init__(
        self,
        configuration: Configuration,
        upstreams: Mapping[str, Upstream],
        clock: Clock = time.monotonic,
        draw: Clock = random.random,
    ) -> None:
        self._configuration = configuration
        self._upstreams = upstreams
        self._clock, self._draw = clock, draw
        self._by_pattern: dict[str, Route] = {}
        self._by_model: dict[str, Route] = {}
        anything = configuration.deployment.models.get("*")
        name = anything.deployments[0].upstream if anything else next(iter(upstreams))
        # Objects belong to a key: of several, always the first.
        self._default = Route([Deployment(upstreams[name], None, clock=clock)], clock=clock)
        for pattern in configuration.deployment.models:
            self._of(pattern)

    @property
    def configuration(self) -> Configuration:
        """What they are of."""
        return self._configuration

    def route(self, model: str | None) -> Route:
        """The deployments for a model. Raises WeirError 404.

        Requests without one are about objects, which stay where they were made: they go to one upstream, always.
        """
        if model is None:
            return self._default
        route = self._by_model.get(model)
        if route is None:
            route = self._look_up(model)
            if len(self._by_model) < 4096:  # names come from clients
                self._by_model[model] = route
        return route

    def _look_up(self, model: str) -> Route:
        if not self._configuration.deployment.models:
            return self._default
        found = self._configuration.model_for(model)
        if found is None:
            message = f"The model `{model[:200]}` does not exist or you do not have access to it."
            raise WeirError(404, message, code="model_not_found", param="model")
        return self._of(found[0])

    def _of(self, pattern: str) -> Route:
        if pattern not in self._by_pattern:
            model = self._configuration.deployment.models[pattern]
            self._by_pattern[pattern] = Route(
                [each for place in model.deployments for each in self._by_key(place)],
                model.balance,
                outliers=model.outliers,
                max_load=model.max_load,
                pattern=pattern,
                clock=self._clock,
                draw=self._draw,
            )
        return self._by_pattern[pattern]

    def _by_key(self, place: Place) -> Iterator[Deployment]:
        """A deployment for each of the upstream's keys: each has its own limits, and the first may be refused."""
        upstream = self._upstreams[place.upstream]
        for key in upstream.keys:
            yield Deployment(
                upstream,
                place.model,
                place.weight / len(upstream.keys),
                key=key,
                max_concurrent=place.max_concurrent,
                clock=self._clock,
            )

    @property
    def upstreams(self) -> list[Upstream]:
        """All of them, in the order of the file."""
        return list(self._upstreams.values())

    def standing(self) -> list[DeploymentSeries]:
        """How all deployments stand now."""
        now = self._clock()
        return [one.standing(route.pattern, now) for route in self.routes for one in route.deployments]

    @property
    def routes(self) -> list[Route]:
        """All of them, in the order of the file."""
        return list(self._by_pattern.values())
