"""Which policies there are, and where one wants to stand among the others.

Rules: a policy is a module with `Config` (pydantic) and `build(config, services)`, named by an entry point of the
group `weir.policies`. This file names no policy: what a policy knows about its neighbours it declares itself, as
`ORDER`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from pydantic import BaseModel

GROUP = "weir.policies"


@dataclass(frozen=True, slots=True)
class Order:
    """Where a policy belongs: `outside` these policies, or `inside` those; `why` ends the warning where it isn't so.

    Names that aren't in the chain, or that nobody provides, are ignored.
    """

    outside: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    why: str = ""


class PolicyModule(Protocol):
    """What an entry point must name. `ORDER: Order` may stand beside them."""

    @property
    def Config(self) -> type[BaseModel]: ...  # noqa: N802
    @property
    def build(self) -> Callable[..., Any]: ...


Registry = Mapping[str, Callable[[], PolicyModule]]


def installed() -> Registry:
    """Every policy that is installed, by name; a module is imported when it is asked for."""
    return {point.name: point.load for point in entry_points(group=GROUP)}


def order_of(module: PolicyModule) -> Order:
    """The policy's own hints, or none."""
    found = getattr(module, "ORDER", None)
    return found if isinstance(found, Order) else Order()
