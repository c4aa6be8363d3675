"""Whose tokenizer a model uses, by its name: weights, encodings, and what its images come to. A table and look-ups.

The weights were fitted to what the tokenizers themselves say of 4,700 texts: Django's translations (90 languages),
the source, markup and documentation of Python and its packages, and made-up JSON, tables and hashes. Sources: OpenAI's
published ranks; the published tokenizers of Llama 3, Mistral (tekken), Qwen 3, DeepSeek V3, Gemma 3; Claude's of 2023,
scaled: later ones aren't published and count a quarter to two fifths more than OpenAI's.

Images: the most tokens that one image can come to, by the providers' own pages (OpenAI: "Images and vision", tiles of
512 pixels, 8 at most, or 1,536 patches times a factor; Anthropic: "Vision", 1.15 megapixels / 750). What isn't known
has no maximum.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from proxy.tokens.classes import Weights


class Family(msgspec.Struct, frozen=True):
    """Models that count alike. `p99`: until it is learnt, 99 of 100 requests have at most this many times the estimate.

    `encoding`: tiktoken's name, where it counts exactly. `normalises`: whether it may read more characters than it was
    sent (Unicode's compatibility forms). `image`: what one usually comes to. `tools`: the share of their JSON's tokens
    that the model is shown.
    """

    name: str
    weights: Weights
    scale: float = 1.0
    p99: float = 1.5
    encoding: str | None = None
    normalises: bool = True
    image: int = 1000
    tools: float = 0.9


def _weights(*values: float) -> Weights:
    return msgspec.convert([*values[:11], values[11:]], Weights)


# fmt: off
_CL100K: Final = _weights(
    0.152, 0.202, 0.413, 0.656, 1.271, 0.574, -0.637, -0.918, 0.696, -0.861, -0.224,
    2.414, 0.992, 0.411, 0.809, 1.175, 2.038, 1.706, 0.957, 0.959, 0.942, 1.171, 2.377)
_O200K: Final = _weights(
    0.155, 0.205, 0.392, 0.681, 1.26, 0.563, -0.588, -0.901, 0.626, -0.73, 0.076,
    1.346, 0.335, 0.243, 0.293, 0.323, 0.354, 1.039, 0.633, 0.765, 0.58, 1.256, 1.143)
_TEKKEN: Final = _weights(
    0.173, 0.336, 0.315, 0.577, 1.826, 0.567, -0.421, -0.83, 0.529, -0.873, 0.132,
    1.506, 0.32, 0.288, 0.29, 0.414, 0.502, 2.182, 0.62, 0.936, 0.613, 3.005, 3.846)
_CLAUDE: Final = _weights(
    0.224, 0.316, 0.058, 0.702, 1.048, 0.626, 0.014, -0.685, 0.545, -0.41, 0.443,
    3.114, 1.257, 0.583, 1.161, 1.396, 1.363, 2.01, 0.99, 0.872, 1.269, 0.99, 1.9)
_LLAMA: Final = _weights(
    0.154, 0.203, 0.407, 0.62, 1.275, 0.573, -0.62, -0.92, 0.691, -0.866, -0.062,
    1.837, 0.338, 0.289, 0.387, 0.567, 2.03, 1.69, 0.616, 0.775, 0.615, 1.128, 2.281)
_GEMMA: Final = _weights(
    0.205, 0.239, 0.145, 0.896, 1.755, 0.62, 0.048, -0.718, 0.481, -0.874, 0.025,
    1.282, 0.371, 0.272, 0.376, 0.302, 0.477, 0.904, 0.415, 0.643, 0.608, 1.532, 0.527)
_DEEPSEEK: Final = _weights(
    0.194, 0.29, 0.221, 0.524, 1.225, 0.587, -0.214, -0.83, 0.573, -0.697, -0.279,
    2.373, 0.487, 0.309, 0.428, 0.673, 0.868, 1.201, 0.642, 0.64, 0.77, 1.109, 1.212)
_QWEN: Final = _weights(
    0.15, 0.2, 0.425, 0.651, 1.867, 0.562, -0.666, -0.899, 0.606, -1.043, -0.462,
    2.15, 0.948, 0.302, 0.385, 1.075, 1.11, 0.998, 0.618, 0.734, 0.678, 1.06, 0.55)
# fmt: on

GPT_4: Final = Family("gpt-4", _CL100K, encoding="cl100k_base", normalises=False, image=765, tools=0.6)
GPT_4O: Final = Family("gpt-4o", _O200K, encoding="o200k_base", normalises=False, image=765, tools=0.6)
UNKNOWN: Final = Family("unknown", _CL100K, scale=1.1, p99=2.5)

FAMILIES: Final = (
    (r"gpt-oss", Family("gpt-oss", _O200K, p99=2.0, normalises=False)),
    (r"gpt-4o|gpt-4\.[1-9]|gpt-(?:[5-9]|[12]\d)|(?:^|[^a-z])o[1-9](?:$|[^a-z0-9])|codex|computer-use-preview", GPT_4O),
    (r"gpt-4|gpt-3\.5|gpt-35|text-embedding-(?:3|ada)|(?:babbage|davinci)-002", GPT_4),
    (r"claude", Family("claude", _CLAUDE, scale=1.3, p99=1.8, image=1600)),
    (r"gemini|gemma", Family("gemini", _GEMMA, image=1032)),
    (r"deepseek", Family("deepseek", _DEEPSEEK)),
    (r"qwen|qwq", Family("qwen", _QWEN)),
    (r"llama", Family("llama", _LLAMA)),
    (r"mistral|ministral|mixtral|pixtral|codestral|devstral|magistral", Family("mistral", _TEKKEN, p99=1.8)),
)
_COMPILED: Final = tuple((re.compile(pattern), family) for pattern, family in FAMILIES)

_MOST_TILES: Final = 8
_MOST_PATCHES: Final = 1536
# The first pattern that is found in a name tells the most tokens of one image, by its provider's page.
_IMAGE_MOST: Final = (
    (r"gpt-5-mini|gpt-4\.1-mini", -(-_MOST_PATCHES * 162 // 100)),
    (r"gpt-5-nano|gpt-4\.1-nano", -(-_MOST_PATCHES * 246 // 100)),
    (r"o4-mini", -(-_MOST_PATCHES * 172 // 100)),
    (r"gpt-4o-mini", 2833 + 5667 * _MOST_TILES),
    (r"gpt-4o|gpt-4\.[15]|gpt-4-turbo|gpt-4-vision", 85 + 170 * _MOST_TILES),
    (r"gpt-5(?:$|-chat|-20\d\d)", 70 + 140 * _MOST_TILES),
    (r"(?:^|[^a-z])o[13](?:$|-pro|-20\d\d)", 75 + 150 * _MOST_TILES),
    (r"computer-use-preview", 65 + 129 * _MOST_TILES),
    (r"claude-(?:3|opus-4(?:$|-[0156]|-20\d\d)|sonnet-4|haiku-4)", 1640),
)
_IMAGES: Final = tuple((re.compile(pattern), most) for pattern, most in _IMAGE_MOST)


def family_of(model: str) -> Family:
    """The family of a model, whatever stands around its name (`azure/gpt-4o`, `us.anthropic.claude-…`)."""
    lower = model.lower()
    return next((family for pattern, family in _COMPILED if pattern.search(lower)), UNKNOWN)


def most_of_image(model: str) -> int | None:
    """The most tokens that one image can come to; None where nobody says."""
    lower = model.lower()
    return next((most for pattern, most in _IMAGES if pattern.search(lower)), None)
