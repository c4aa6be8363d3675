"""Where requests go: upstreams, the deployments of models there, and which of them is asked.

`Routes` finds a model's `Route`, which picks one of its `Deployment`s; each call of it is a `Flight`, that tells what
became of it. Everything is known to one worker only: workers find out for themselves. Egress goes to configured
upstreams only: nothing from a request chooses a host.
"""

from proxy.upstreams.deployment import Deployment
from proxy.upstreams.flight import Flight
from proxy.upstreams.route import NoDeploymentError, Route
from proxy.upstreams.routes import Routes
from proxy.upstreams.upstream import Upstream

__all__ = ["Deployment", "Flight", "NoDeploymentError", "Route", "Routes", "Upstream"]
