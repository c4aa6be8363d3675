"""The journal's records as the ledger reads them.

Rules: tolerant. A field that an older writer didn't know has a default; what is kept as it stands isn't parsed (`Raw`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_NOTHING: Final = msgspec.Raw(b"null")
_NO_TAGS: Final = msgspec.Raw(b"{}")
_NONE: Final = msgspec.Raw(b"[]")


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """What an attempt might cost."""

    input_tokens: int | None = None
    output_cap: int | None = None
    nanodollars: int | None = None
    n: int = 1


class Reserved(msgspec.Struct, tag_field="event", tag="reserved", gc=False):
    """An attempt was about to be sent."""

    at: int
    exchange: str
    attempt: int
    worker: int = -1
    endpoint: str = ""
    kind: str = "client"
    tenant: str | None = None
    key: str | None = None
    org: str | None = None
    team: str | None = None
    project: str | None = None
    tags: msgspec.Raw = _NO_TAGS
    asked: str | None = None
    model: str | None = None
    deployment: str | None = None
    upstream: str | None = None
    estimate: Estimate = Estimate()
    parent: str | None = None
    started_by: str | None = None
    policies_hash: str = ""


class Settled(msgspec.Struct, tag_field="event", tag="settled", gc=False):
    """An attempt was over."""

    at: int
    exchange: str
    attempt: int
    worker: int = -1
    outcome: str = ""
    status: int | None = None
    served: str | None = None
    tier: str | None = None
    usage: msgspec.Raw = _NOTHING
    tokens: dict[str, Any] = {}
    nanodollars: int | None = None
    known: str = "unpriced"
    cards: str | None = ""
    ttft_ns: int | None = None
    total_ns: int = 0
    upstream_request_id: str | None = None
    error: str | None = None

    @property
    def used(self) -> dict[str, Any]:
        """What is counted as used: what was told or estimated; nothing of an attempt that is known not to be billed."""
        return {} if self.known == "observed" and bytes(self.usage) == b"null" else self.tokens


class Saving(msgspec.Struct, gc=False):
    """What a policy says it saved."""

    policy: str
    nanodollars: int
    model: str = ""
    tokens: dict[str, Any] = {}
    known: str = "modelled"


class Decision(msgspec.Struct, gc=False):
    """What a policy did, as far as the ledger asks."""

    policy: str = ""
    action: str = ""


class Ended(msgspec.Struct, tag_field="event", tag="ended", gc=False):
    """An exchange was over."""

    at: int
    exchange: str
    worker: int = -1
    kind: str = "client"
    parent: str | None = None
    status: int = 0
    outcome: str = ""
    tenant: str | None = None
    key: str | None = None
    org: str | None = None
    team: str | None = None
    project: str | None = None
    tags: msgspec.Raw = _NO_TAGS
    endpoint: str = ""
    asked: str | None = None
    attempts: int = 0
    total_ns: int = 0
    nanodollars: int | None = None
    saved_nanodollars: int = 0
    policies_hash: str = ""
    decisions: msgspec.Raw = _NONE
    savings: msgspec.Raw = _NONE
    started_by: str | None = None


class Rated(msgspec.Struct, tag_field="event", tag="feedback", gc=False):
    """A client said how good an answer was. `exchange` may be another worker's."""

    at: int
    exchange: str
    worker: int = -1
    tenant: str | None = None
    key: str | None = None
    org: str | None = None
    team: str | None = None
    project: str | None = None
    endpoint: str | None = None
    asked: str | None = None
    served: str | None = None
    rating: float = 0.0
    comment: str | None = None
    decisions: msgspec.Raw = _NONE


Entry = Reserved | Settled | Ended | Rated
decode: Final = msgspec.json.Decoder(Entry).decode
decode_savings: Final = msgspec.json.Decoder(list[Saving]).decode
decode_decisions: Final = msgspec.json.Decoder(list[Decision]).decode
decode_reserved: Final = msgspec.json.Decoder(Reserved).decode
encode: Final = msgspec.json.Encoder().encode
ARMS: Final = ("holdout", "not_rolled_out", "treated")
"""Actions by which a policy with a holdout or a rollout says in which group an exchange was."""


def whole(number: object) -> int:
    """A count as the database can hold it."""
    return number if type(number) is int and -(2**62) < number < 2**62 else 0


def clean(text: str | None) -> str | None:
    """Text as every database can hold it."""
    return text.replace("\0", "\ufffd") if text is not None and "\0" in text else text
