"""`/v1/batches`: many requests in a file, answered within a day, each billed on the tier `batch`.

A batch takes as long as the scenario says (`batches`), by a clock that tests may set (`wall`). Its lines are answered
in turn as it goes on: one that is cancelled or expires has answered as many as its time allowed, the others stand in
its file of errors. Nothing runs in between: how a batch stands is worked out when somebody looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import orjson

from proxy.simulator.incoming import Incoming
from proxy.simulator.latency import Latency
from proxy.simulator.reply import Reply, jsonly
from proxy.simulator.speech.terms import Refusal

DAY_S: Final = 86_400.0
_MOST_LINES: Final = 50_000
_PATHS: Final = {
    f"/v1/{name}" for name in ("chat/completions", "responses", "embeddings", "completions", "moderations")
}

Answer = Callable[[str, dict[str, Any], str], Reply]  # path, body, credential
"""A line's answer; what it is billed is in it."""


class Terms(msgspec.Struct, frozen=True):
    """How batches go: seconds that one takes, the share of lines that fail, seconds that cancelling takes."""

    takes: Latency
    fail: float = 0.0
    cancel_s: float = 0.0


class _Line(msgspec.Struct):
    custom_id: str
    body: dict[str, Any]
    told: bytes | None = None  # as it stands in a file
    failed: bool = False


class _Batch(msgspec.Struct):
    id: str
    facts: dict[str, Any]
    credential: str
    lines: list[_Line]
    began_s: float
    takes_s: float
    ends_s: float  # at which it stops answering lines
    cancelled_s: float | None = None
    over: bool = False


def _used(batch: _Batch) -> dict[str, Any]:
    """What the object says in the end: the model, and the usage of all lines."""
    read = written = cached = reasoned = 0
    model = None
    for line in batch.lines:
        if line.told is None or line.failed:
            continue
        body = orjson.loads(line.told)["response"]["body"]
        usage, model = body.get("usage") or {}, body.get("model", model)
        read += usage.get("prompt_tokens", usage.get("input_tokens", 0))
        written += usage.get("completion_tokens", usage.get("output_tokens", 0))
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        cached += details.get("cached_tokens", 0)
        details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
        reasoned += details.get("reasoning_tokens", 0)
    usage = {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": read + written,
    }
    return {"model": model, "usage": usage}


class Batches:
    """All of them. `keep` makes a file of bytes and says its id; `charge` bills a line."""

    def __init__(
        self,
        terms: Terms,
        answer: Answer,
        read: Callable[[str], bytes | None],
        keep: Callable[[str, bytes], str],
        charge: Callable[[str, Reply], None],
        random: Random,
    ) -> None:
        self.wall: Callable[[], float] = time.time
        self.terms = terms
        self._answer, self._read, self._keep, self._charge = answer, read, keep, charge
        self._random = random
        self._batches: dict[str, _Batch] = {}

    def clear(self) -> None:
        """Forgets all of them."""
        self._batches.clear()

    def reply(self, request: Incoming, id: str) -> Reply:
        """The answer to a request under `/v1/batches`. Raises Refusal."""
        id, _, verb = id.partition("/")
        match request.method, bool(id), verb:
            case "POST", False, "":
                return jsonly(self._create(request))
            case "GET", False, "":
                return jsonly(self._listed(request))
            case "GET", True, "":
                return jsonly(self._stands(self._found(id)))
            case "POST", True, "cancel":
                return jsonly(self._cancel(self._found(id)))
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    def _listed(self, request: Incoming) -> dict[str, Any]:
        """A page, the newest first."""
        asked = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
        batches = list(reversed(self._batches.values()))
        if after := asked.get("after"):
            batches = batches[batches.index(self._found(after[0])) + 1 :]
        limit = int(asked.get("limit", ["20"])[0])
        if not 1 <= limit <= 100:
            raise Refusal(400, "Invalid 'limit'.", param="limit")
        page = [self._stands(batch) for batch in batches[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"object": "list", "data": page, **ends, "has_more": len(batches) > limit}

    def _found(self, id: str) -> _Batch:
        batch = self._batches.get(id)
        if batch is None:
            raise Refusal(404, f"No batch found with id '{id}'.", param="batch_id")
        return batch

    def _create(self, request: Incoming) -> dict[str, Any]:
        asked = orjson.loads(request.body)
        content = self._read(str(asked.get("input_file_id")))
        if content is None:
            raise Refusal(400, "Invalid 'input_file_id'.", param="input_file_id")
        if asked.get("endpoint") not in _PATHS or asked.get("completion_window") != "24h":
            raise Refusal(400, "Invalid 'endpoint' or 'completion_window'.", param="endpoint")
        now = self.wall()
        facts = {
            "id": f"batch_{len(self._batches) + 1:024d}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(now),
            "in_progress_at": None,
            "expires_at": int(now + DAY_S),
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None,
            "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
        }
        takes_s = self.terms.takes.draw(self._random)
        batch = _Batch(facts["id"], facts, request.credential, [], now, takes_s, now + min(takes_s, DAY_S))
        batch.lines = self._lines(batch, content)
        self._batches[batch.id] = batch
        return dict(facts)

    def _lines(self, batch: _Batch, content: bytes) -> list[_Line]:
        lines, wrong = [], None
        seen: set[str] = set()
        for number, raw in enumerate(filter(None, content.split(b"\n"))):
            try:
                told = orjson.loads(raw)
                line = _Line(told["custom_id"], told["body"])
                if told["url"] != batch.facts["endpoint"] or told["method"] != "POST" or line.custom_id in seen:
                    raise ValueError(told["url"])
            except (ValueError, KeyError, TypeError):
                wrong = number + 1
                break
            seen.add(line.custom_id)
            lines.append(line)
        if (
            wrong is not None
            or not lines
            or len(lines) > _MOST_LINES
            or len({line.body.get("model") for line in lines}) > 1
        ):
            error = {"code": "invalid_request", "message": "The batch's input file is not right.", "line": wrong}
            batch.facts |= {
                "status": "failed",
                "failed_at": int(self.wall()),
                "errors": {"object": "list", "data": [error]},
            }
            batch.over = True
        return lines

    def _cancel(self, batch: _Batch) -> dict[str, Any]:
        self._stands(batch)
        if not batch.over and batch.cancelled_s is None:
            batch.cancelled_s = self.wall()
            batch.ends_s = min(batch.ends_s, batch.cancelled_s)
            batch.facts["cancelling_at"] = int(batch.cancelled_s)
        return self._stands(batch)

    # --- how it stands

    def _stands(self, batch: _Batch) -> dict[str, Any]:
        now = self.wall()
        if not batch.over:
            share = min(1.0, (min(now, batch.ends_s) - batch.began_s) / batch.takes_s) if batch.takes_s else 1.0
            for line in batch.lines[: int(share * len(batch.lines) + 1e-9)]:
                if line.told is None:
                    self._answered(batch, line)
            batch.facts["status"] = self._status(batch, now)
            batch.facts["in_progress_at"] = int(batch.began_s)
            counts = {"total": len(batch.lines), "completed": 0, "failed": 0}
            for line in batch.lines:
                if line.told is not None:
                    counts["failed" if line.failed else "completed"] += 1
            batch.facts["request_counts"] = counts
            if batch.over:
                self._close(batch, now)
        return dict(batch.facts)

    def _status(self, batch: _Batch, now: float) -> str:
        if batch.cancelled_s is not None:
            batch.over = now >= batch.cancelled_s + self.terms.cancel_s
            return "cancelled" if batch.over else "cancelling"
        if now < batch.ends_s:
            return "in_progress"
        batch.over = True
        return "completed" if batch.takes_s <= DAY_S else "expired"

    def _answered(self, batch: _Batch, line: _Line) -> None:
        if self._random.random() < self.terms.fail:
            error = {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
            reply = Reply(500, body=orjson.dumps({"error": error}))
        else:
            try:
                reply = self._answer(batch.facts["endpoint"], line.body, batch.credential)
            except Refusal as refusal:
                reply = refusal.reply()
        line.failed = reply.status >= 400
        self._charge(batch.credential, reply)
        response = {
            "status_code": reply.status,
            "request_id": f"req-{line.custom_id}",
            "body": orjson.loads(reply.body),
        }
        line.told = orjson.dumps(
            {"id": f"batch_req_{line.custom_id}", "custom_id": line.custom_id, "response": response, "error": None}
        )

    def _close(self, batch: _Batch, now: float) -> None:
        status = str(batch.facts["status"])
        batch.facts[f"{status}_at"] = int(now)
        batch.facts |= _used(batch)
        right = [line.told for line in batch.lines if line.told is not None and not line.failed]
        wrong = [line.told for line in batch.lines if line.told is not None and line.failed]
        code = {"cancelled": "batch_cancelled", "expired": "batch_expired"}.get(status, "")
        for line in batch.lines:
            if line.told is None:
                error = {"code": code, "message": f"This request wasn't executed: the batch is {status}."}
                wrong.append(
                    orjson.dumps(
                        {
                            "id": f"batch_req_{line.custom_id}",
                            "custom_id": line.custom_id,
                            "response": None,
                            "error": error,
                        }
                    )
                )
        if right:
            batch.facts["output_file_id"] = self._keep(f"{batch.id}_output.jsonl", b"\n".join(right) + b"\n")
        if wrong:
            batch.facts["error_file_id"] = self._keep(f"{batch.id}_error.jsonl", b"\n".join(wrong) + b"\n")
