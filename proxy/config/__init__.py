"""The configuration: files that people write, checked and resolved.

Rules: the models (imported here at once) need pydantic only, so that a worker starts quickly. What reads files or
describes them (`load`, `default_configuration`, `find`, `schema`) is imported when it is first used, by the
supervisor and the command line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proxy.config.conditions import Conditions, Facts, Predicate, bucket
from proxy.config.configuration import Configuration
from proxy.config.deployment import Cors, DeploymentFile, Journal, Log, Tls
from proxy.config.globs import globs
from proxy.config.limits import Limits, Pool, Timeouts, UpstreamTimeouts
from proxy.config.policies import Envelope, Honour, PolicyEntry, PolicyFile
from proxy.config.problems import ConfigurationError, Problem
from proxy.config.registry import Order, PolicyModule, Registry, installed
from proxy.config.scalars import Address, Duration, Percent, Size, Truth
from proxy.config.secret import Secret
from proxy.config.strict import Strict
from proxy.config.teams import Key, Org, Project, Team, TeamsFile
from proxy.config.upstreams import Deployment, Model, Price, Upstream

if TYPE_CHECKING:
    from proxy.config.loading import default_configuration, find, load
    from proxy.config.schemas import schema

_LATER = {
    "default_configuration": "proxy.config.loading",
    "find": "proxy.config.loading",
    "load": "proxy.config.loading",
    "schema": "proxy.config.schemas",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "Address",
    "Conditions",
    "Configuration",
    "ConfigurationError",
    "Cors",
    "Deployment",
    "DeploymentFile",
    "Duration",
    "Envelope",
    "Facts",
    "Honour",
    "Journal",
    "Key",
    "Limits",
    "Log",
    "Model",
    "Order",
    "Org",
    "Percent",
    "PolicyEntry",
    "PolicyFile",
    "PolicyModule",
    "Pool",
    "Predicate",
    "Price",
    "Problem",
    "Project",
    "Registry",
    "Secret",
    "Size",
    "Strict",
    "Team",
    "TeamsFile",
    "Timeouts",
    "Tls",
    "Truth",
    "Upstream",
    "UpstreamTimeouts",
    "bucket",
    "default_configuration",
    "find",
    "globs",
    "installed",
    "load",
    "schema",
]
