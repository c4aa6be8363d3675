"""Images, speech and moderation: small deterministic bytes, wrapped rightly, with the usage that each API gives."""

from __future__ import annotations

import base64
import struct
import zlib
from hashlib import shake_256
from typing import Any

import orjson

from proxy.simulator import tokens
from proxy.simulator.reply import SSE, Bill, Reply, jsonly
from proxy.simulator.speech.terms import Call, Refusal, Turn
from proxy.simulator.usage import Tally

# By quality: pixels a side of what is sent (noise, so it does not compress), and the tokens it is billed for.
_QUALITIES = {"low": (16, 272), "medium": (32, 1056), "auto": (32, 1056), "high": (256, 4160)}
_SPEECH_TYPES = {"mp3": b"audio/mpeg", "opus": b"audio/ogg", "aac": b"audio/aac", "flac": b"audio/flac"}
_SPEECH_TYPES |= {"wav": b"audio/wav", "pcm": b"audio/pcm"}
_SPEECH_BLOCK = 4096
_PICTURE_IN = 323
_AUDIO_BYTES_PER_TOKEN = 64


def png(side: int, seed: bytes) -> bytes:
    """A square of coloured noise."""
    noise = shake_256(seed).digest(side * side * 3)
    rows = b"".join(b"\x00" + noise[row * side * 3 : (row + 1) * side * 3] for row in range(side))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def prepare_image(call: Call) -> ImageAnswer:
    """`images/generations`. Raises Refusal."""
    return ImageAnswer(call)


def prepare_variation(call: Call) -> ImageAnswer:
    """`images/variations`: a picture in, and no words. Raises Refusal."""
    call.body.setdefault("prompt", "a variation")
    return ImageAnswer(call, "images.variations", _PICTURE_IN)


def prepare_edit(call: Call) -> ImageAnswer:
    """`images/edits`: the same, with a picture in. Raises Refusal."""
    return ImageAnswer(call, "images.edits", _PICTURE_IN)


class ImageAnswer:
    """The pictures of one request; streamed as events where asked, with partial ones first."""

    def __init__(self, call: Call, endpoint: str = "images.generations", pictured: int = 0) -> None:
        self._endpoint = endpoint
        self.model = call.model("image")
        prompt = call.body.get("prompt")
        if not isinstance(prompt, str) or not prompt:
            raise Refusal(400, "Missing required parameter: 'prompt'.", param="prompt")
        side, cost = _QUALITIES.get(str(call.body.get("quality", "auto")), _QUALITIES["auto"])
        n = call.whole("n", 1, 10) or 1
        self.streamed = call.body.get("stream") in (True, "true")
        self.partials = call.whole("partial_images", 0, 3) or 0
        seed = f"{call.seed} {self.model.name} {prompt}"
        self._pictures = [base64.b64encode(png(side, f"{seed} {i}".encode())).decode() for i in range(n)]
        count = tokens.count(prompt)
        self._tally = Tally(input=count + pictured, input_image=pictured, output=cost * n, output_image=cost * n)

    def reply(self, turn: Turn) -> Reply:
        tally = self._tally
        bill = Bill(self.model.served or self.model.name, self._endpoint, tally)
        details = {"text_tokens": tally.input - tally.input_image, "image_tokens": tally.input_image}
        whole = {"input_tokens": tally.input, "input_tokens_details": details, "output_tokens": tally.output}
        usage = turn.form.told({**whole, "total_tokens": tally.input + tally.output})
        told = {} if usage is None else {"usage": usage}
        if not self.streamed:
            pictures = [{"b64_json": picture} for picture in self._pictures]
            return jsonly({"created": turn.now, "data": pictures, **told}, delay=turn.pace.first_s, bill=bill)
        steps = [(0, self._event("partial_image", {"partial_image_index": i})) for i in range(self.partials)]
        steps.append((tally.output, self._event("completed", told)))
        return Reply(content_type=SSE, events=turn.pace.timed(steps, b""), bill=bill)

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        name = f"image_generation.{kind}"
        data = {"type": name, "b64_json": self._pictures[0], **fields}
        return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


def prepare_speech(call: Call) -> SpeechAnswer:
    """`audio/speech`. Raises Refusal."""
    return SpeechAnswer(call)


class SpeechAnswer:
    """Sound in chunks as it is made, or as events with usage (`stream_format: sse`)."""

    def __init__(self, call: Call) -> None:
        self.model = call.model("speech")
        text = call.body.get("input")
        if not isinstance(text, str) or not text:
            raise Refusal(400, "Missing required parameter: 'input'.", param="input")
        self._kind = _SPEECH_TYPES.get(str(call.body.get("response_format", "mp3")), _SPEECH_TYPES["mp3"])
        sound = shake_256(f"{call.seed} {text}".encode()).digest(512 + len(text) * 256)
        self._blocks = [sound[at : at + _SPEECH_BLOCK] for at in range(0, len(sound), _SPEECH_BLOCK)]
        made = max(1, len(sound) // _AUDIO_BYTES_PER_TOKEN)
        self._tally = Tally(input=tokens.count(text), output=made, output_audio=made)
        self._events = call.body.get("stream_format") == "sse"

    def reply(self, turn: Turn) -> Reply:
        tally = self._tally
        bill = Bill(self.model.served or self.model.name, "audio.speech", tally)
        each = _SPEECH_BLOCK // _AUDIO_BYTES_PER_TOKEN
        steps = [(min(each * (at + 1), tally.output), block) for at, block in enumerate(self._blocks)]
        steps[-1] = (tally.output, steps[-1][1])
        if not self._events:
            return Reply(content_type=self._kind, events=turn.pace.timed(steps, b""), bill=bill)
        told = [(made, _speech("delta", {"audio": base64.b64encode(block).decode()})) for made, block in steps]
        total = {"input_tokens": tally.input, "output_tokens": tally.output, "total_tokens": tally.input + tally.output}
        usage = turn.form.told(total)
        done = _speech("done", {} if usage is None else {"usage": usage})
        return Reply(content_type=SSE, events=turn.pace.timed(told, b""), terminal=done, bill=bill)


def _speech(kind: str, fields: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"type": f"speech.audio.{kind}", **fields})


def prepare_moderation(call: Call) -> ModerationAnswer:
    """`moderations`: a text with "violence" in it is flagged. Raises Refusal."""
    return ModerationAnswer(call)


class ModerationAnswer:
    """One verdict an input. Moderation is free."""

    def __init__(self, call: Call) -> None:
        call.body.setdefault("model", "omni-moderation-latest")
        self.model = call.model("moderation")
        given = call.body.get("input")
        if not given:
            raise Refusal(400, "Missing required parameter: 'input'.", param="input")
        self._texts = [given] if isinstance(given, str) else given

    def reply(self, turn: Turn) -> Reply:
        results = []
        for text in self._texts:
            flagged = "violence" in str(text).lower()
            score = 0.97 if flagged else 0.001
            results.append(
                {"flagged": flagged, "categories": {"violence": flagged}, "category_scores": {"violence": score}}
            )
        return jsonly({"id": f"modr-{turn.id.decode()}", "model": self.model.served, "results": results})
