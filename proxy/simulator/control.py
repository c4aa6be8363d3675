"""`/sim/…`: what the simulator has seen and billed, and rules added while it runs.

| request | answer |
|---|---|
| `GET /sim/invoice` | totals by key, model, endpoint and tier |
| `GET /sim/requests` | the last requests as they arrived |
| `GET /sim/state` | counters, open connections, clients that left |
| `GET /sim/faults` | the table of faults |
| `POST /sim/faults` | adds a rule: `{"fault": "error-503", "nth": 2}` |
| `POST /sim/reset` | forgets all of these, and the added rules |
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import orjson
from pydantic import ValidationError

from proxy.simulator import faults
from proxy.simulator.incoming import Incoming
from proxy.simulator.record import Record, described
from proxy.simulator.reply import Reply, jsonly
from proxy.simulator.rules import Rules
from proxy.simulator.scenario import Rule
from proxy.simulator.speech.terms import Refusal


class Control:
    """Answers `/sim/…`."""

    def __init__(self, record: Record, rules: Rules, forget: Callable[[], None]) -> None:
        self._record = record
        self._rules = rules
        self._forget = forget

    def reply(self, request: Incoming) -> Reply:
        """The answer, also to what it does not know."""
        match request.method, request.path:
            case "GET", "/sim/invoice":
                return jsonly(msgspec.to_builtins(self._record.statement()))
            case "GET", "/sim/state":
                return jsonly(msgspec.to_builtins(self._record.snapshot()))
            case "GET", "/sim/requests":
                return jsonly({"requests": [*map(described, self._record.requests)]})
            case "GET", "/sim/faults":
                return Reply(content_type=b"text/markdown; charset=utf-8", body=faults.table().encode())
            case "POST", "/sim/faults":
                return self._add(request.body)
            case "POST", "/sim/reset":
                self._record.reset()
                self._rules.clear()
                self._forget()
                return jsonly({"reset": True})
        return Refusal(404, f"Unknown request: {request.method} {request.path}").reply()

    def _add(self, body: bytes) -> Reply:
        try:
            rule = Rule.model_validate(orjson.loads(body))
        except (ValidationError, ValueError) as error:
            return Refusal(400, str(error)).reply()
        self._rules.add(rule)
        return jsonly(rule.model_dump(exclude_none=True))
