"""`headers.md`: the headers that are this program's own. A test finds every one of them in the source."""

from __future__ import annotations

from typing import Final, NamedTuple


class Header(NamedTuple):
    """One header: who sends it, who sets or reads it, and what it says."""

    name: str
    where: str
    by: str
    meaning: str


_REQUEST: Final = "request"
_ANSWER: Final = "answer"

HEADERS: Final = (
    Header("x-weir-tags", _REQUEST, "all", "`name=value, …`: tags of this request, where the policy file honours them"),
    Header("x-weir-deadline", _REQUEST, "all", "how long the answer may take: `15m`"),
    Header("x-weir-bypass", _REQUEST, "all", "policies to skip, by name; only those that the policy file names"),
    Header("x-weir-priority", _REQUEST, "overload", "`high`, `normal` or `low`: whose requests wait first"),
    Header("x-weir-feedback", _REQUEST, "feedback", "`ID=good`: rates the answer of an earlier exchange"),
    Header("x-weir-conversation", _REQUEST, "rollout, route", "names the conversation, so that all of it goes one way"),
    Header("x-weir-cascade-streaming", _REQUEST, "cascade", "how this stream is held back"),
    Header("x-weir-exchange", _ANSWER, "all", "the exchange's id, for `weir why` and `GET /weir/exchanges/ID`"),
    Header("x-weir-model", _ANSWER, "all", "the model that served it"),
    Header("x-weir-cost", _ANSWER, "all", "US dollars to the nano-dollar, or `unpriced`; a stream tells it at its end"),
    Header("x-weir-policies", _ANSWER, "all", "what acted: `name=action, …`"),
    Header("x-weir-saved", _ANSWER, "cache, route", "US dollars that were saved, or `unpriced`"),
    Header("x-weir-budget", _ANSWER, "budget", "how much of the budget that is nearest to its limit is used"),
    Header("x-weir-cache", _ANSWER, "cache", "`hit`, `stale`, `semantic` or `miss`"),
    Header("x-weir-cache-entry", _ANSWER, "cache", "the entry, to report it or evict it by"),
    Header("x-weir-cache-similarity", _ANSWER, "cache", "the cosine of the question and the entry's"),
    Header("x-weir-cascade", _ANSWER, "cascade", "`small` or `large`, and what the certificate says"),
    Header("x-weir-route", _ANSWER, "route", "the model that was chosen, by which rule, and why"),
    Header("x-weir-coalesced", _ANSWER, "coalesce", "the exchange whose call it shares"),
    Header("x-weir-batched", _ANSWER, "microbatch", "the exchange that made the call"),
    Header("x-weir-job", _ANSWER, "defer_to_batch", "the id of a job that waits for a batch"),
    Header("x-weir-signature", "webhook", "budget, defer_to_batch", "HMAC-SHA256 of the body of what is sent to you"),
)

_BEGINNING = """# Headers

<!-- Written by `python -m proxy.reference`; change `proxy/reference/headers.py`, then run it again. -->

Weir's own begin with `x-weir-`; none of them reaches an upstream. [The wire](wire.md) says which others cross.

| header | of | by | |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _BEGINNING + "".join(f"| `{name}` | {where} | {by} | {text} |\n" for name, where, by, text in HEADERS)
