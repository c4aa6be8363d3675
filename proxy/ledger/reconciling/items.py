"""What a line of an export is for: the model, the meter and the tier that its text names, or a fee, a credit, a tax.

Rules: pure. Providers write for people: `gpt-4o-mini-2024-07-18, cached input`, `Claude Sonnet 4.5 Usage - Input
Tokens`, `web search tool calls`. What isn't understood stays a line without a model, it is never dropped.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

Sort = Literal["usage", "fee", "credit", "tax"]

_DATED: Final = re.compile(r"[-@](20\d\d-?\d\d-?\d\d|latest)$")
_METERS: Final = (  # the first that fits
    ("cache_write", re.compile(r"cache[ _]?(?:write|creation)|ephemeral")),
    ("cached", re.compile(r"cached|cache[ _]?(?:read|hit)")),
    ("audio_in", re.compile(r"audio.*input|input.*audio")),
    ("audio_out", re.compile(r"audio.*output|output.*audio")),
    ("image_out", re.compile(r"image.*output|output.*image")),
    ("output", re.compile(r"output|completion|generated|reasoning")),
    ("input", re.compile(r"input|prompt|context")),
)
_TIERS: Final = ("batch", "flex", "priority", "scale")
_FEES: Final = re.compile(
    r"search|interpreter|container|storage|vector|train|fine-?tun|session|tool call|code[ _]execution|hosting|seat|"
    r"assistants|subscription|support"
)
_TAXES: Final = re.compile(r"\b(tax|vat|gst|hst)\b")
_CREDITS: Final = re.compile(r"\b(credit|credits|discount|refund|adjustment|grant|promotion)\b")
_CLAUDE: Final = re.compile(
    r"claude\s+(?:(?P<a>opus|sonnet|haiku)\s+(?P<b>\d(?:\.\d)?)|(?P<c>\d(?:\.\d)?)\s+(?P<d>\w+))"
)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.:/_@-]*")


class Item(msgspec.Struct, frozen=True):
    """What a line is for."""

    sort: Sort
    model: str | None = None
    meter: str | None = None
    tier: str | None = None


def item_of(text: str, amount: int = 0, model: str | None = None, tier: str | None = None) -> Item:
    """From the line's text, and what the export says in fields of their own."""
    lower = " ".join(text.lower().replace("|", ",").split())
    if _TAXES.search(lower):
        return Item("tax")
    if _CREDITS.search(lower) or amount < 0:
        return Item("credit")
    if model is None and _FEES.search(lower):
        return Item("fee")
    meter = next((name for name, form in _METERS if form.search(lower)), None)
    named = tier if tier not in (None, "", "standard", "default") else None
    named = named or next((word for word in _TIERS if re.search(rf"\b{word}\b", lower)), None)
    return Item("usage", plain(model) if model else _model(lower), meter, named)


def plain(model: str) -> str:
    """A model's name without its date: `gpt-4o-2024-08-06` and `gpt-4o` are one."""
    name = model.strip().lower().removeprefix("models/").rpartition("/")[2]
    return _DATED.sub("", name)


def _model(text: str) -> str | None:
    """The model at the text's beginning: `gpt-4o-mini-2024-07-18, input`, or Claude as people write it."""
    if found := _CLAUDE.search(text):
        family, version = (found["a"], found["b"]) if found["a"] else (found["d"], found["c"])
        return f"claude-{family}-{version.replace('.', '-')}"
    for part in text.split(","):
        part = part.strip()
        name = _NAME.fullmatch(part.split(" ")[0] if part else "")
        if name and any(c.isdigit() or c == "-" for c in name[0]) and part.split(" ")[0] not in _TIERS:
            return plain(name[0])
    return None
