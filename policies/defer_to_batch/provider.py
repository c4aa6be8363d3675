"""A provider's Batch API as this policy uses it: OpenAI's files and batches.

Another provider's (Anthropic's Message Batches: requests in the call itself, results by a URL) would be another class
with these methods.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from proxy.body import Body, scan
from proxy.deferred import sent
from proxy.dispatch import Dispatch
from proxy.endpoints import endpoint_of
from proxy.errors import UPSTREAM, WeirError
from proxy.exchange import Exchange, Identity, Request
from proxy.upstreams.deployment import Deployment
from proxy.wire.headers import Headers

_JSON: Final = (b"content-type", b"application/json")
OVER: Final = frozenset(("completed", "failed", "expired", "cancelled"))
OUR_ID: Final = "weir_batch"
_TENANT: Final = Identity("weir")
_FILE_S: Final = 600.0
_CALL_S: Final = 30.0  # far less than what is left to a batch's jobs when it is cancelled
_AT_ONCE: Final = 200
_CLOCKS_S: Final = 3600.0  # by which the provider's clock may be behind ours


class Standing(msgspec.Struct, frozen=True):
    """How a batch stands at the provider."""

    id: str
    status: str
    files: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in OVER


class Line(msgspec.Struct, frozen=True):
    """What became of one request. `status` 0: it wasn't executed."""

    custom_id: str
    status: int
    body: bytes = b""


class _Response(msgspec.Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(b"{}")


class _Told(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


_read_line: Final = msgspec.json.Decoder(_Told).decode


def line_of(custom_id: str, path: str, body: bytes) -> bytes:
    """One request as it stands in a batch's file."""
    return b'{"custom_id":%b,"method":"POST","url":%b,"body":%b}\n' % (
        orjson.dumps(custom_id),
        orjson.dumps(path),
        body.replace(b"\n", b" "),  # between tokens only: JSON's strings hold no line feed
    )


class Provider:
    """One deployment's files and batches. Every call raises WeirError where there is no answer."""

    def __init__(self, dispatch: Dispatch, deployment: Deployment, model: str) -> None:
        self._dispatch, self._deployment, self._model = dispatch, deployment, model

    async def upload(self, lines: Sequence[bytes]) -> str:
        """Makes the file of a batch; its id."""
        boundary = secrets.token_hex(16).encode()
        parts = [
            b'--%b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' % boundary,
            b'--%b\r\ncontent-disposition: form-data; name="file"; filename="batch.jsonl"\r\n' % boundary,
            b"content-type: application/jsonl\r\n\r\n",
            *lines,
            b"\r\n--%b--\r\n" % boundary,
        ]
        kind = (b"content-type", b"multipart/form-data; boundary=%b" % boundary)
        return str((await self._asked("POST", "/v1/files", b"".join(parts), [kind], _FILE_S))["id"])

    async def create(self, file_id: str, path: str, our_id: str) -> Standing:
        """Begins a batch."""
        asked = {
            "input_file_id": file_id,
            "endpoint": path,
            "completion_window": "24h",
            "metadata": {OUR_ID: our_id},
        }
        return _standing(await self._asked("POST", "/v1/batches", orjson.dumps(asked), [_JSON]))

    async def find(self, our_id: str, since_s: float) -> Standing | None:
        """A batch that may have been begun though nobody heard of it, not before `since_s` (Unix time)."""
        after = ""
        while True:
            listed = await self._asked("GET", f"/v1/batches?limit=100{after}")
            known: list[dict[str, Any]] = listed.get("data") or []  # the newest first
            for told in known:
                if (told.get("metadata") or {}).get(OUR_ID) == our_id:
                    return _standing(told)
            if not known or not listed.get("has_more") or known[-1].get("created_at", 0) < since_s - _CLOCKS_S:
                return None
            after = f"&after={known[-1]['id']}"

    async def stands(self, id: str) -> Standing:
        """How it stands."""
        return _standing(await self._asked("GET", f"/v1/batches/{id}"))

    async def cancel(self, id: str) -> Standing:
        """Ends it; what was answered by then stays."""
        return _standing(await self._asked("POST", f"/v1/batches/{id}/cancel", b"{}", [_JSON]))

    async def results(self, standing: Standing) -> list[Line]:
        """What became of its requests, as far as it says."""
        found = []
        for id in standing.files:
            content = await self._call("GET", f"/v1/files/{id}/content", b"", [], _FILE_S)
            for number, raw in enumerate(content.split(b"\n")):
                if raw.strip():
                    found.append(_line(raw))
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # others want this loop too
        return found

    async def _asked(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None, total_s: float = _CALL_S
    ) -> dict[str, Any]:
        try:
            told = orjson.loads(await self._call(method, target, body, headers or [], total_s))
        except ValueError:
            raise _odd(200) from None
        if not isinstance(told, dict) or not isinstance(told.get("id", told.get("data")), str | list):
            raise _odd(200)
        return told

    async def _call(self, method: str, target: str, body: bytes, headers: Headers, total_s: float) -> bytes:
        path = target.partition("?")[0]
        endpoint = endpoint_of(method, path)
        assert endpoint is not None
        exchange = Exchange(_TENANT, endpoint.name, asked=self._model, kind="batch", stateful_allowed=True)
        exchange.total_s = total_s
        sending: Body | bytes = scan(body) if endpoint.parsed else body
        request = Request(exchange, endpoint, method, target.encode(), path, headers, sending, self._model)
        response = await sent(self._dispatch, request, self._deployment)
        content = await response.read()
        if response.status >= 300:
            raise _odd(response.status)
        return content


def _line(raw: bytes) -> Line:
    try:
        told = _read_line(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _odd(200) from None
    if told.response is None:
        return Line(told.custom_id, 0)
    return Line(told.custom_id, told.response.status_code, bytes(told.response.body))


def _standing(told: dict[str, Any]) -> Standing:
    files = tuple(str(told[name]) for name in ("output_file_id", "error_file_id") if told.get(name))
    return Standing(str(told["id"]), str(told.get("status")), files)


def _odd(status: int) -> WeirError:
    return WeirError(502, f"The provider's Batch API answered with status {status}.", type=UPSTREAM, code="batch_api")
