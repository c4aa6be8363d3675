"""A two-rung policy for the benchmark: a small model first, and a larger one where the small one's answer isn't liked.

Both calls are attempts of one exchange, and so both meet the guards. It judges by a hash of the answer, not by its
quality: what is measured is that the second rung can't slip past a budget.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from pydantic import BaseModel, ConfigDict

from proxy.chain import Services
from proxy.exchange import Forward, Request
from proxy.response import Response

_OF: Final = 1000


class Config(BaseModel):
    """From which model to which, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    small: str
    large: str
    share: float = 0.3
    """Of the small model's answers that aren't liked."""


class Rungs:
    """The layer."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if request.model != self._config.small:
            return await forward(request)
        response = await forward(request)
        if response.status != 200 or crc32(await response.read()) % _OF >= self._config.share * _OF:
            return response
        await response.aclose()
        return await forward(request.using(model=self._config.large))


def build(config: Config, services: Services) -> Rungs:
    """The policy for one entry of a policy file."""
    return Rungs(config)
