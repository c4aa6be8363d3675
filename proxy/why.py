"""What happened to one exchange, from its journal records: behind `weir why ID` and `GET /weir/exchanges/{id}`.

Rules: pure functions of the journal's records, so that the command, the API and the journal can't tell different
stories. Records may be missing (an exchange that still runs, a worker that was killed): what isn't known is null,
never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

Record = Mapping[str, Any]

_IDENTITY = ("org", "team", "project", "key", "tags")


def why(records: Iterable[Record]) -> dict[str, Any]:
    """One object that tells it all, from the records of one exchange in the order in which they were written.

    `state` is `ended`, or `running` when no `ended` record exists (yet). Money is integer nano-dollars, with
    `dollars` as exact text beside it; times are milliseconds.
    """
    records = [*records]
    ended = next((record for record in reversed(records) if record.get("event") == "ended"), None)
    first = records[0] if records else {}
    attempts = _attempts(records)
    nanodollars = _cost(ended, attempts)
    return {
        "exchange": first.get("exchange"),
        "state": "ended" if ended else "running",
        "at": _moment(first.get("at")),
        "worker": first.get("worker"),
        **{name: _first(records, name) for name in (*_IDENTITY, "endpoint", "asked")},
        "status": ended.get("status") if ended else None,
        "outcome": ended.get("outcome") if ended else None,
        "total_ms": _ms(ended.get("total_ns")) if ended else None,
        "nanodollars": nanodollars,
        "dollars": dollars(nanodollars),
        "policies_hash": ended.get("policies_hash") if ended else None,
        "decisions": [dict(decision) for decision in (ended or {}).get("decisions") or ()],
        "attempts": attempts,
        "feedback": _feedback(records),
    }


def belongs(records: Sequence[Record], tenant: str) -> bool:
    """Whether every record that names a tenant names this one, and at least one does."""
    tenants = {record["tenant"] for record in records if record.get("tenant")}
    return tenants == {tenant}


def render(told: Mapping[str, Any]) -> str:
    """The same for people: a headline, then one line for each decision and attempt."""
    lines = [_headline(told), *_who(told)]
    lines += [_decision(decision) for decision in told["decisions"]] or ["  no policy acted"]
    lines += [line for attempt in told["attempts"] for line in _attempt(attempt)] or ["  no upstream was called"]
    lines += [_rated(one) for one in told.get("feedback") or ()]
    if told["policies_hash"]:
        lines.append(f"  policy file {told['policies_hash']}")
    return "\n".join(lines)


def dollars(nanodollars: int | None) -> str | None:
    """Nano-dollars as exact dollars: `0.00123`, at least two digits after the point."""
    if nanodollars is None:
        return None
    sign, whole, part = "-" * (nanodollars < 0), *divmod(abs(nanodollars), 10**9)
    return f"{sign}{whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


def _feedback(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What was said of the answer; the last word of each key."""
    last = {record.get("key"): record for record in records if record.get("event") == "feedback"}
    names = ("key", "rating", "comment")
    return [{"at": _moment(one.get("at")), **{name: one.get(name) for name in names}} for one in last.values()]


def _attempts(records: Iterable[Record]) -> list[dict[str, Any]]:
    by_number: dict[Any, dict[str, Record]] = {}
    for record in records:
        if record.get("event") in ("reserved", "settled"):
            by_number.setdefault(record.get("attempt"), {})[str(record["event"])] = record
    return [_told(number, found.get("reserved") or {}, found.get("settled")) for number, found in by_number.items()]


def _told(number: Any, reserved: Record, settled: Record | None) -> dict[str, Any]:
    """One attempt. Without `settled` it still runs, or its worker was killed: its cost is then unknown."""
    after = settled or {}
    return {
        "attempt": number,
        "state": "settled" if settled else "unsettled",
        **{name: reserved.get(name) for name in ("deployment", "upstream", "model", "estimate")},
        **{name: after.get(name) for name in ("served", "tier", "status", "outcome", "tokens", "known", "cards")},
        "nanodollars": after.get("nanodollars"),
        "dollars": dollars(after.get("nanodollars")),
        "ttft_ms": _ms(after.get("ttft_ns")),
        "total_ms": _ms(after.get("total_ns")),
        "upstream_request_id": after.get("upstream_request_id"),
        "error": after.get("error"),
    }


def _cost(ended: Record | None, attempts: Sequence[Mapping[str, Any]]) -> int | None:
    if ended is not None and ended.get("nanodollars") is not None:
        return int(ended["nanodollars"])
    known = [attempt["nanodollars"] for attempt in attempts]
    return sum(known) if known and None not in known else None


def _first(records: Iterable[Record], name: str) -> Any:
    return next((record[name] for record in records if record.get(name) not in (None, "", {})), None)


def _headline(told: Mapping[str, Any]) -> str:
    cost = f"${told['dollars']}" if told["dollars"] is not None else "cost unknown"
    took = f" in {_duration(told['total_ms'])}" if told["total_ms"] is not None else ""
    end = f"{told['status'] or 'no status'} {told['outcome']}{took}" if told["state"] == "ended" else "still running"
    return f"{told['exchange']}  {told['endpoint'] or '-'} {told['asked'] or ''}  {end}  {cost}"


def _who(told: Mapping[str, Any]) -> list[str]:
    parts = [f"{name} {told[name]}" for name in ("org", "team", "project", "key") if told[name]]
    parts += [f"{name}={value}" for name, value in (told["tags"] or {}).items()]
    when = f"  at {told['at']}" if told["at"] else ""
    return [f"{when}  {', '.join(parts)}".rstrip()] if when or parts else []


def _rated(one: Mapping[str, Any]) -> str:
    by = f" by {one['key']}" if one.get("key") else ""
    comment = f": {one['comment']}" if one.get("comment") else ""
    return f"  rated {one['rating']:g}{by}{comment}"


def _decision(decision: Mapping[str, Any]) -> str:
    rest = " ".join(f"{name}={value}" for name, value in decision.items() if name not in ("policy", "source", "action"))
    source = f"  ({decision['source']})" if decision.get("source") else ""
    return f"  policy {decision.get('policy')}: {decision.get('action')} {rest}".rstrip() + source


def _attempt(attempt: Mapping[str, Any]) -> list[str]:
    where = f"{attempt['upstream'] or '-'} {attempt['served'] or attempt['model'] or ''}".rstrip()
    if attempt["state"] == "unsettled":
        return [f"  attempt {attempt['attempt']}: {where}  not settled: it still runs, or its worker was killed"]
    tokens = attempt["tokens"] or {}
    used = f"{tokens.get('input_tokens', '?')} in, {tokens.get('output_tokens', '?')} out" if tokens else "no usage"
    cost = f"${attempt['dollars']} {attempt['known']}" if attempt["dollars"] is not None else str(attempt["known"])
    times = f"first token {_duration(attempt['ttft_ms'])}, total {_duration(attempt['total_ms'])}"
    status = f"{attempt['status'] or 'no status'} {attempt['outcome']}"
    lines = [f"  attempt {attempt['attempt']}: {where}  {status}  {used}  {cost}  {times}"]
    if attempt["error"]:
        lines.append(f"    error: {attempt['error']}")
    return lines


def _duration(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.1f} s"


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e6


def _moment(at_ns: int | None) -> str | None:
    if at_ns is None:
        return None
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
