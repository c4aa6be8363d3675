"""From the journal's records to spans: pure, without OpenTelemetry.

Rules:
1. A span is made when what it tells of is over: an exchange's by `ended`, an attempt's by `settled`.
2. An exchange is told if a decision says so (`parent.NOTED`), or if it works for one that is (a judge, a shared call).
   What comes before that is known waits; at most `MOST` exchanges wait, then the oldest is forgotten.
3. Names and attributes are those of OpenTelemetry's conventions for generative AI where they exist, else `weir.…`. No
   prompt, no answer and no key is in the journal, so none is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from proxy.endpoints import all_endpoints
from proxy.tracing.parent import NOTED, span_of, trace_of

MOST: Final = 20_000
Record = Mapping[str, Any]
Value = str | int | float | bool | list[str]

_OPERATIONS: Final = {endpoint.name: endpoint.operation for endpoint in all_endpoints() if endpoint.operation}


class Span(NamedTuple):
    """What is told. Ids are hexadecimal, times Unix nanoseconds; `error` is empty where all went well."""

    trace: str
    id: str
    parent: str | None
    name: str
    kind: Literal["server", "client", "internal"]
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    error: str = ""


class Assembly:
    """Takes records as they come and gives spans as they get whole."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._reserved: OrderedDict[str, dict[int, Record]] = OrderedDict()
        self._waiting: OrderedDict[str, list[tuple[Record | None, Record]]] = OrderedDict()
        self._traces: OrderedDict[str, str] = OrderedDict()

    def take(self, records: Iterable[Record]) -> list[Span]:
        """The spans that these records complete."""
        return [span for record in records for span in self._one(record)]

    def _one(self, record: Record) -> Iterator[Span]:
        exchange = record.get("exchange")
        if not isinstance(exchange, str):
            return
        match record.get("event"):
            case "reserved":
                self._kept(self._reserved, exchange, dict)[record["attempt"]] = record
            case "settled":
                reserved = self._reserved.get(exchange, {}).pop(record["attempt"], None)
                if (trace := self._traces.get(exchange)) is not None:  # it outlived its exchange
                    yield _attempt(trace, reserved, record)
                else:
                    self._kept(self._waiting, exchange, list).append((reserved, record))
            case "ended":
                yield from self._ended(exchange, record)

    def _ended(self, exchange: str, record: Record) -> Iterator[Span]:
        attempts = self._waiting.pop(exchange, [])
        if not self._reserved.get(exchange):
            self._reserved.pop(exchange, None)
        found = self._trace(exchange, record)
        if found is None:
            return
        trace, parent = found
        self._traces[exchange] = trace
        while len(self._traces) > self._most:
            self._traces.popitem(last=False)
        yield _exchange(trace, parent, record)
        for reserved, settled in attempts:
            yield _attempt(trace, reserved, settled)

    def _trace(self, exchange: str, record: Record) -> tuple[str, str | None] | None:
        """The trace and the parent span of an exchange; None where it isn't told."""
        for decision in record.get("decisions") or ():
            if decision.get("action") == NOTED:
                numbers = decision.get("numbers") or {}
                return numbers.get("trace") or trace_of(exchange), numbers.get("parent")
        parent = record.get("parent") or ""
        trace = self._traces.get(parent)
        return None if trace is None else (trace, span_of(parent))

    def _kept(self, among: OrderedDict[str, Any], exchange: str, make: type) -> Any:
        if exchange not in among:
            among[exchange] = make()
            if len(among) > self._most:
                among.popitem(last=False)
        return among[exchange]


def _exchange(trace: str, parent: str | None, ended: Record) -> Span:
    operation = _operation(ended.get("endpoint"))
    status, outcome = ended.get("status") or 0, ended.get("outcome") or ""
    attributes = _present(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": ended.get("asked"),
            "http.response.status_code": status or None,
            "weir.exchange": ended["exchange"],
            "weir.kind": ended.get("kind"),
            "weir.outcome": outcome,
            "weir.attempts": ended.get("attempts"),
            "weir.cost_usd": _dollars(ended.get("nanodollars")),
            "weir.saved_usd": _dollars(ended.get("saved_nanodollars")) or None,
            "weir.org": ended.get("org"),
            "weir.team": ended.get("team"),
            "weir.project": ended.get("project"),
            "weir.policies": [f"{one.get('policy')}={one.get('action')}" for one in ended.get("decisions") or ()],
            **{f"weir.tag.{name}": value for name, value in (ended.get("tags") or {}).items()},
        }
    )
    error = str(status) if status >= 500 else "" if outcome in ("complete", "") else outcome
    at_ns = int(ended["at"])
    name = _name(operation, ended.get("asked"))
    kind: Literal["server", "internal"] = "server" if ended.get("kind") == "client" else "internal"
    start_ns = at_ns - int(ended.get("total_ns") or 0)
    return Span(trace, span_of(ended["exchange"]), parent, name, kind, start_ns, at_ns, attributes, error)


def _attempt(trace: str, reserved: Record | None, settled: Record) -> Span:
    told: Record = reserved or {}
    operation, model = _operation(told.get("endpoint")), told.get("model")
    tokens, ttft_ns = settled.get("tokens") or {}, settled.get("ttft_ns")
    attributes = _present(
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": told.get("upstream"),
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": (told.get("estimate") or {}).get("output_cap"),
            "gen_ai.response.model": settled.get("served"),
            "gen_ai.usage.input_tokens": tokens.get("input_tokens"),
            "gen_ai.usage.output_tokens": tokens.get("output_tokens"),
            "http.response.status_code": settled.get("status"),
            "weir.exchange": settled["exchange"],
            "weir.attempt": settled["attempt"],
            "weir.deployment": told.get("deployment"),
            "weir.cost_usd": _dollars(settled.get("nanodollars")),
            "weir.cost_known": settled.get("known"),
            "weir.time_to_first_token_s": ttft_ns / 1e9 if ttft_ns is not None else None,
            "weir.upstream_request_id": settled.get("upstream_request_id"),
        }
    )
    status = settled.get("status") or 0
    error = settled.get("error") or (str(status) if status >= 400 else "")
    at_ns, exchange, number = int(settled["at"]), settled["exchange"], int(settled["attempt"])
    start_ns = at_ns - int(settled.get("total_ns") or 0)
    return Span(
        trace,
        span_of(exchange, number),
        span_of(exchange),
        _name(operation, model),
        "client",
        start_ns,
        at_ns,
        attributes | ({"error.type": str(error)} if error else {}),
        str(error),
    )


def _name(operation: str, model: str | None) -> str:
    """The conventions' name of a span: operation and model."""
    return f"{operation} {model}" if model else operation


def _operation(endpoint: str | None) -> str:
    return _OPERATIONS.get(endpoint or "", endpoint or "request")


def _dollars(nanodollars: int | None) -> float | None:
    return None if nanodollars is None else nanodollars / 1e9


def _present(attributes: Mapping[str, Any]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value not in (None, "", [])}
