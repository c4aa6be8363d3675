"""What an attempt may cost at most, and what it came to: the amounts that are reserved and settled.

Pure. The bound is proven, far from the limit as well as near it: a cheap one where the body is plain text (a byte is at
least a token), the careful one of `proxy.tokens.bound` otherwise. What can't be priced or bounded has no amount.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import msgspec

from policies.budget.limits import Unit
from proxy.body import Body
from proxy.exchange import Attempt
from proxy.pricing import RateCard
from proxy.tokens.bound import FRAMING, bound
from proxy.tokens.families import family_of

_MEDIA: Final = (
    b'"image',
    b'"input_',
    b'"audio"',
    b'"file"',
    b'"document"',
    b'"video_url"',
    b'"computer_screenshot"',
    b'"container_upload"',
    b"\\u",  # may spell any of these
)
_SPECIAL: Final = frozenset(
    (
        "tools",
        "functions",
        "prediction",
        "web_search_options",
        "previous_response_id",
        "conversation",
        "prompt",
        "data_sources",
        "mcp_servers",
        "modalities",
        "audio",
    )
)
_MESSAGES: Final = {"chat.completions": "messages", "messages": "messages", "responses": "input"}
_GRID: Final = 256  # tokens of input that a bound is rounded up to, so that equal ones needn't be worked out again
_SPOKEN: Final = "audio.speech"
_ENDLESS: Final = ("images.generations", "images.edits", "images.variations", "audio.transcriptions")


class Worst(msgspec.Struct, frozen=True, gc=False):
    """What an attempt can't exceed; None where nothing bounds it. `why` says what is missing."""

    nanodollars: int | None
    tokens: int | None
    cap: int | None  # of one answer
    why: Literal["", "unpriced_model", "unbounded_cost"] = ""

    def amount(self, unit: Unit) -> int | None:
        """In a limit's unit."""
        return self.nanodollars if unit == "usd" else self.tokens if unit == "tok" else 1


def worst(attempt: Attempt, otherwise_cap: int | None, counted: int | None = None) -> Worst:
    """`otherwise_cap` is for requests without a cap of models whose maximum isn't known; `counted` is the exact input,
    where somebody has counted it.
    """
    card, body, endpoint = attempt.card, attempt.request.body, attempt.request.endpoint.name
    cap = attempt.output_cap
    if cap is None:
        cap = _cap(card, otherwise_cap)
    if card is not None and cap is not None and isinstance(body, Body) and _is_plain(attempt.model, endpoint, body):
        found, grid = (len(body.raw) + FRAMING, _GRID) if counted is None else (counted, 1)
        most = most_of(card, -(-found // grid) * grid, cap, attempt.n, attempt.tier, False, None)
        if most is not None:
            return Worst(most, found + attempt.n * cap, cap)
    return _carefully(attempt, body, endpoint, card, cap)


def _cap(card: RateCard | None, otherwise: int | None) -> int | None:
    """What the model can write at most; else the policy's number, else all that fits into its context."""
    if card is not None and card.max_output is not None:
        return card.max_output
    return otherwise if otherwise is not None or card is None else card.context_window


def _is_plain(model: str, endpoint: str, body: Body) -> bool:
    """Text and nothing else, of which a byte is at least a token: then nothing comes from elsewhere."""
    name, raw = _MESSAGES.get(endpoint), body.raw
    if name is None or not body.parsed:
        return False
    # An escape is no shorter than what it spells, but what it spells may be read as more than that.
    if _normalises(model) and (not raw.isascii() or b"\\u" in raw):
        return False
    fields = body.fields
    if "search" in model or not _SPECIAL.isdisjoint(fields):
        return False
    messages = fields.get(name)
    if type(messages) is not list:
        return type(messages) is str
    try:
        for message in messages:  # this is the path of every request
            if type(message["content"]) is not str or len(message) != 2:
                return False
            message["role"]
    except (KeyError, TypeError):
        return False
    return True


@lru_cache(1024)
def _normalises(model: str) -> bool:
    """Whether its vocabulary may read more than was sent: characters that aren't ASCII become longer ones."""
    return family_of(model).normalises


def _carefully(attempt: Attempt, body: object, endpoint: str, card: RateCard | None, cap: int | None) -> Worst:
    """The same for any body."""
    missing: Literal["unpriced_model", "unbounded_cost"] = "unpriced_model" if card is None else "unbounded_cost"
    found = bound(family_of(attempt.model), attempt.model, endpoint, body) if isinstance(body, Body) else None
    if found is None or not isinstance(body, Body) or _recalls_sound(body):
        return Worst(None, None, cap, missing)
    extra = len(body.raw) if "prediction" in body else 0  # rejected predictions are billed as output
    whole, answers = None if cap is None else cap + extra, choices(endpoint, body, attempt.n)
    if endpoint == "embeddings":
        tokens: int | None = found
    else:
        tokens = None if whole is None else found + answers * whole
    if card is None or (cap is None and endpoint in _ENDLESS):
        return Worst(None, tokens, cap, missing)
    text = body.get("input") if endpoint == _SPOKEN else None
    characters = len(text) if isinstance(text, str) else None
    media = endpoint in _ENDLESS or endpoint == _SPOKEN or any(mark in body.raw for mark in _MEDIA)
    grid = -(-found // _GRID) * _GRID
    most = most_of(card, grid, whole, answers, attempt.tier, media, characters)
    return Worst(most, tokens, cap, "" if most is not None else missing)


@lru_cache(4096)
def most_of(
    card: RateCard, input_tokens: int, cap: int | None, n: int, tier: str | None, media: bool, characters: int | None
) -> int | None:
    """The card's bound, remembered: a card never changes."""
    return card.bound(input_tokens, cap, n, tier, media=media, characters=characters)


def _recalls_sound(body: Body) -> bool:
    """Whether an earlier answer's sound, which the upstream keeps, is to be heard again."""
    messages = body.get("messages") if b'"audio"' in body.raw or b"\\u" in body.raw else None
    return isinstance(messages, list) and any(isinstance(one, dict) and one.get("audio") for one in messages)


def choices(endpoint: str, body: Body, n: int) -> int:
    """How many answers are written: `n` for each prompt, and as many as the best is chosen from."""
    if endpoint != "completions":
        return n
    prompt, best = body.get("prompt"), body.get("best_of")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return prompts * max(n, best if isinstance(best, int) else 1)


def likely(attempt: Attempt, unit: Unit) -> int:
    """The estimate, for budgets that only count."""
    if unit == "usd":
        return attempt.estimate_nanodollars or 0
    return attempt.estimated_input_tokens + attempt.n * (attempt.output_cap or 0) if unit == "tok" else 1


def came_to(attempt: Attempt, unit: Unit, reserved: int, unobserved: Literal["worst", "estimate"]) -> int:
    """What a settled attempt counts for. Where usage wasn't observed, a hard budget counts what was reserved."""
    usage = attempt.usage
    if usage is None and attempt.nanodollars == 0:
        return 0  # never sent, or failed and not billed
    if unit == "req":
        return 1
    if attempt.known != "observed" and unobserved == "worst":
        return reserved
    if unit == "usd":
        return reserved if attempt.nanodollars is None else attempt.nanodollars
    return reserved if usage is None else usage.input_tokens + usage.output_tokens


def fitting_cap(low_cost: int, high_cost: int, cap: int, room: int) -> int:
    """The largest cap whose cost fits into `room`, by the line through the costs of no output and of the whole cap.

    Costs are rounded up, so the line may be a unit off: one token is left out.
    """
    if room < low_cost or high_cost <= low_cost:
        return cap if room >= high_cost else 0
    return max(0, min(cap, (room - low_cost) * cap // (high_cost - low_cost) - 1))
