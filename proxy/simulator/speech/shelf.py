"""What the provider keeps or lists: models, files, stored responses; and uploads, which it hears but does not hold.

An upload above 1 MiB is spooled to a temporary file. Everything else under any path is OpenAI's 404.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import IO, Any

import orjson

from proxy.simulator.incoming import Incoming
from proxy.simulator.multipart import Multipart
from proxy.simulator.reply import SSE, Bill, Reply, jsonly
from proxy.simulator.roster import Roster
from proxy.simulator.speech.batches import Batches
from proxy.simulator.speech.terms import Refusal
from proxy.simulator.thinking import randomly
from proxy.simulator.usage import Tally

_SPOOL_BYTES = 1 << 20
_BLOCK = 1 << 16
_MOST_KEPT = 1000
_UPLOADS = {b"/v1/files", b"/v1/audio/transcriptions", b"/v1/audio/translations"}
_UPLOADS |= {b"/v1/images/edits", b"/v1/images/variations"}
_AUDIO_BYTES_PER_TOKEN = 1000


class _File:
    """A stored file."""

    def __init__(self, id: str, name: str, purpose: str, size: int, spool: IO[bytes]) -> None:
        self.facts = {
            "id": id,
            "object": "file",
            "bytes": size,
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self.size = size
        self.spool = spool

    def blocks(self) -> Iterator[bytes]:
        at = 0
        while at < self.size:
            self.spool.seek(at)
            block = self.spool.read(_BLOCK)
            at += len(block)
            yield block


def _digest(spool: IO[bytes]) -> bytes:
    digest = sha256()
    spool.seek(0)
    while block := spool.read(_BLOCK):
        digest.update(block)
    return digest.digest()


class Shelf:
    """What the provider keeps for its clients."""

    def __init__(self, roster: Roster, seed: int) -> None:
        self._roster = roster
        self._seed = seed
        self._files: dict[str, _File] = {}
        self._kept: dict[str, bytes] = {}
        self._numbered = 0
        self.batches: Batches | None = None  # set by whoever answers their lines

    def close(self) -> None:
        """Let go of everything."""
        for file in self._files.values():
            file.spool.close()
        self._files.clear()
        self._kept.clear()

    @staticmethod
    def uploaded_to(request: Incoming) -> bool:
        """Whether the request's body is a form with files."""
        return request.method == "POST" and request.target in _UPLOADS

    def receive(self, request: Incoming) -> None:
        """The head of a request is here: an upload goes to a spool, as it comes."""
        if not self.uploaded_to(request):
            return
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        try:
            request.stream_into(Multipart(request.fields.get(b"content-type", b""), spool.write), spool)
        except ValueError as error:
            request.problem = str(error)

    def keep(self, reply: Reply) -> None:
        """An answer that may be asked for again."""
        if reply.kept:
            if len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[reply.kept[0]] = reply.kept[1]

    def reply(self, request: Incoming, path: str) -> Reply:
        """The answer to what is not prepared. Raises Refusal."""
        kind, _, id = path.partition("/")
        method = "GET" if request.method == "HEAD" else request.method
        match method, kind, id:
            case _, "batches", _ if self.batches is not None:
                return self.batches.reply(request, id)
            case "POST", "files", "":
                return self._store(request)
            case "POST", "audio", "transcriptions" | "translations":
                return self._transcribe(request, id)
            case "GET", "models", _:
                return self._models(id)
            case "GET" | "DELETE", "files", _:
                return self._file(request, id)
            case "GET" | "DELETE", "responses", str(id) if id in self._kept:
                if method == "GET":
                    return Reply(body=self._kept[id])
                del self._kept[id]
                return jsonly({"id": id, "object": "response", "deleted": True})
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})")

    def _models(self, id: str) -> Reply:
        listed = [
            {"id": model.name, "object": "model", "created": 1_735_689_600, "owned_by": model.owner}
            for model in self._roster.models.values()
            if id in ("", model.name)
        ]
        if not id:
            return jsonly({"object": "list", "data": listed})
        if not listed:
            raise Refusal(404, f"The model '{id}' does not exist", code="model_not_found", param="model")
        return jsonly(listed[0])

    def form(self, request: Incoming) -> dict[str, Any]:
        """The fields of an upload as the JSON that they stand for. Raises Refusal."""
        fields = {name: value.decode(errors="replace") for name, value in self._uploaded(request).fields.items()}
        return {name: int(value) if value.isdecimal() else value for name, value in fields.items()}

    # Files

    def _uploaded(self, request: Incoming) -> Multipart:
        upload = request.upload
        if upload is None or request.problem or not upload.complete:
            raise Refusal(400, request.problem or "The multipart body ends before its last boundary.")
        return upload

    def _store(self, request: Incoming) -> Reply:
        upload = self._uploaded(request)
        spool = request.spool
        if spool is None or "purpose" not in upload.fields or not upload.filename:
            raise Refusal(400, "Missing required parameter: 'file' or 'purpose'.", param="file")
        self._numbered += 1
        id = f"file-{self._numbered:024d}"
        size = spool.seek(0, 2)
        file = self._files[id] = _File(id, upload.filename, upload.fields["purpose"].decode(), size, spool)
        request.spool = None
        return jsonly(file.facts)

    def content(self, id: str) -> bytes | None:
        """All of a file."""
        file = self._files.get(id)
        return None if file is None else b"".join(file.blocks())

    def add(self, name: str, content: bytes) -> str:
        """A file that the provider made; its id."""
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115
        spool.write(content)
        self._numbered += 1
        id = f"file-{self._numbered:024d}"
        self._files[id] = _File(id, name, "batch_output", len(content), spool)
        return id

    def _file(self, request: Incoming, path: str) -> Reply:
        id, _, part = path.partition("/")
        if not id and request.method in ("GET", "HEAD"):
            return jsonly({"object": "list", "data": [f.facts for f in self._files.values()], "has_more": False})
        file = self._files.get(id)
        if file is None or part not in ("", "content"):
            raise Refusal(404, f"No such File object: {id}", param="id")
        if request.method == "DELETE":
            self._files.pop(id).spool.close()
            return jsonly({"id": id, "object": "file", "deleted": True})
        if part:
            return Reply(content_type=b"application/octet-stream", blocks=file.blocks(), length=file.size)
        return jsonly(file.facts)

    # Sound

    def _transcribe(self, request: Incoming, endpoint: str) -> Reply:
        upload = self._uploaded(request)
        name = upload.fields.get("model", b"").decode()
        model = self._roster.find(name) if name else None
        if model is None or request.spool is None:
            raise Refusal(400, "you must provide a model parameter", param="model")
        size = request.spool.seek(0, 2)
        random = randomly(self._seed, name, _digest(request.spool))
        words = [random.choice(("the", "river", "runs", "over", "a", "weir")) for _ in range(8)]
        pieces = [word if not at else " " + word for at, word in enumerate(words)]
        heard = max(1, size // _AUDIO_BYTES_PER_TOKEN)
        tally = Tally(input=heard, output=len(pieces), input_audio=heard)
        bill = Bill(model.served or name, f"audio.{endpoint}", tally)
        usage = self._heard(name, tally)
        if upload.fields.get("stream") in (b"true", b"True", b"1"):
            return self._streamed(pieces, usage, bill)
        if upload.fields.get("response_format") == b"text":
            return Reply(content_type=b"text/plain; charset=utf-8", body="".join(pieces).encode() + b"\n", bill=bill)
        return jsonly({"text": "".join(pieces), "usage": usage}, bill=bill)

    @staticmethod
    def _heard(name: str, tally: Tally) -> dict[str, Any]:
        if name.startswith("whisper"):
            return {"type": "duration", "seconds": tally.input}
        details = {"text_tokens": 0, "audio_tokens": tally.input_audio}
        usage = {"type": "tokens", "input_tokens": tally.input, "input_token_details": details}
        return {**usage, "output_tokens": tally.output, "total_tokens": tally.input + tally.output}

    @staticmethod
    def _streamed(pieces: list[str], usage: dict[str, Any], bill: Bill) -> Reply:
        deltas = [{"type": "transcript.text.delta", "delta": piece} for piece in pieces]
        done = {"type": "transcript.text.done", "text": "".join(pieces), "usage": usage}
        events = [(0.0, b"data: %b\n\n" % orjson.dumps(delta), at + 1) for at, delta in enumerate(deltas)]
        return Reply(content_type=SSE, events=iter(events), terminal=b"data: %b\n\n" % orjson.dumps(done), bill=bill)
