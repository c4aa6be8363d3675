"""What the simulator says, one file a family of endpoints: each reads its request and words its answers and events."""

from __future__ import annotations

from collections.abc import Callable

from proxy.simulator.speech import chat, completions, embeddings, media, messages, responses
from proxy.simulator.speech.terms import Call, Prepared

PREPARE: dict[str, Callable[[Call], Prepared]] = {
    "chat/completions": chat.prepare,
    "completions": completions.prepare,
    "responses": responses.prepare,
    "responses/compact": responses.prepare_compact,
    "messages": messages.prepare,
    "messages/count_tokens": messages.prepare_count,
    "embeddings": embeddings.prepare,
    "images/generations": media.prepare_image,
    "images/edits": media.prepare_edit,
    "images/variations": media.prepare_variation,
    "audio/speech": media.prepare_speech,
    "moderations": media.prepare_moderation,
}
