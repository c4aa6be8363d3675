"""An OpenAI-compatible provider to run Weir against: demo, tests and benchmarks.

An implementation of its own, on raw transports: it shares nothing with `proxy.wire`, so that neither hides the other's
mistakes, and it can misbehave on the wire in every way of `faults.FAULTS`. Same seed, model and request: same content.
"""

from proxy.simulator.faults import FAULTS
from proxy.simulator.faults import table as fault_table
from proxy.simulator.invoice import Row, Statement
from proxy.simulator.latency import Latency
from proxy.simulator.provider import Options
from proxy.simulator.record import State
from proxy.simulator.scenario import Rule, Scenario, ScenarioError, load
from proxy.simulator.simulator import Simulator, run

__all__ = [
    "FAULTS",
    "Latency",
    "Options",
    "Row",
    "Rule",
    "Scenario",
    "ScenarioError",
    "Simulator",
    "State",
    "Statement",
    "fault_table",
    "load",
    "run",
]
