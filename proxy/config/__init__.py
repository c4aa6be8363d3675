"""The configuration: files that people write, checked and resolved.

Rules: this package's models (imported here) need pydantic only, so that a worker starts quickly; what reads files
stands in `proxy.config.load`, which only the supervisor and the command line import.
"""

from proxy.config.conditions import Conditions, Facts, Predicate, bucket
from proxy.config.configuration import Configuration
from proxy.config.deployment import (
    Cors,
    Deployment,
    DeploymentFile,
    Journal,
    Limits,
    Log,
    Model,
    Pool,
    Price,
    Timeouts,
    Tls,
    Upstream,
    UpstreamTimeouts,
)
from proxy.config.globs import globs
from proxy.config.policies import Envelope, Honour, PolicyEntry, PolicyFile
from proxy.config.problems import ConfigurationError, Problem
from proxy.config.registry import Order, PolicyModule, Registry, installed
from proxy.config.scalars import Address, Duration, Percent, Size, Truth
from proxy.config.secret import Secret
from proxy.config.strict import Strict
from proxy.config.teams import Key, Org, Project, Team, TeamsFile

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
    "globs",
    "installed",
]
