"""Vectors without a network: the mean of a text's token vectors, from a table that comes with a package.

The table (32,000 tokens, 256 dimensions, half precision) and its tokenizer are the files of the `wordllama` package
(MIT). They are found without importing it, and the table is mapped, so that all workers of a host share one copy.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Vector = npt.NDArray[np.float32]
_PACKAGE: Final = "wordllama"
_WEIGHTS: Final = "weights/l2_supercat_256.safetensors"
_TOKENIZER: Final = "tokenizers/l2_supercat_tokenizer_config.json"
_TENSOR: Final = "embedding.weight"
MOST_TOKENS: Final = 64  # of a text, that are compared with each other
_SPACE: Final = "▁"  # what stands for a space in tokens
_LONGEST: Final = 40  # characters of a word whose tokens are kept
_KNOWN: Final = 30_000  # words
Tokens = npt.NDArray[np.uint16]


class MissingPackageError(Exception):
    """What the semantic tier needs isn't installed; the text says how to."""


class Static:
    """Text to vector. Some tens of microseconds a text; safe in several threads."""

    def __init__(self) -> None:
        home = _installed()
        self._tokens: Tokenizer = _tokenizer(home / _TOKENIZER)
        self._table = _mapped(home / _WEIGHTS)
        self._starts = frozenset(number for token, number in self._tokens.get_vocab().items() if token[0] == _SPACE)
        self._spelt: dict[str, tuple[int, ...]] = {}  # tokens of words
        self._units = np.zeros(self._table.shape, np.float32)  # rows by length 1, as they are met: no memory before
        self._weights = np.zeros(len(self._table), np.float32)  # their lengths; 0 where none was met
        self.name = f"static:{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"
        self.dimensions = int(self._table.shape[1])

    def tokens(self, text: str) -> Tokens:
        """The text's tokens, at least one.

        No token reaches over the beginning of a word, but in runs of spaces. So a text's are those of its words, which
        mostly are known.
        """
        words = text.split(" ")
        if "" in words or len(max(words, key=len)) > _LONGEST or "<" in text or _SPACE in text:
            return np.array(self._ids(text) or [0], dtype=np.uint16)
        known = self._spelt
        if new := [word for word in dict.fromkeys(words) if word not in known]:
            if len(known) > _KNOWN:
                known = self._spelt = {}
                new = list(dict.fromkeys(words))
            self._spell(new, known)
        return np.array([token for word in words for token in known[word]], dtype=np.uint16)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokens.encode(text, add_special_tokens=False).ids
        return ids

    def _spell(self, words: list[str], known: dict[str, tuple[int, ...]]) -> None:
        """Keeps the tokens of words."""
        ids = self._ids(" ".join(words))
        starts = [place for place, number in enumerate(ids) if number in self._starts]
        for word, start, end in zip(words, starts, [*starts[1:], len(ids)], strict=True):
            known[word] = tuple(ids[start:end])

    def weighed(self, tokens: Tokens) -> tuple[Vector, Vector]:
        """Of each token its vector with length 1, and its weight: tokens that mean much have long vectors."""
        weights = self._weights.take(tokens)
        if not weights.all():
            new = tokens[weights == 0]
            rows = self.rows(new)
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) + np.float32(1e-6)
            self._units[new] = rows / lengths[:, None]
            self._weights[new] = lengths
            weights = self._weights.take(tokens)
        return self._units.take(tokens, 0), weights

    def rows(self, tokens: Tokens) -> Vector:
        """The vectors of tokens."""
        return self._table[tokens].astype(np.float32)

    def vector(self, rows: Vector) -> Vector:
        """Of a text, by its tokens' vectors; its length is 1."""
        return _unit(rows.mean(0, dtype=np.float32))

    def pointing(self, units: Vector, weights: Vector) -> Vector:
        """The same of what `weighed` gave."""
        return _unit(weights @ units)


def _unit(vector: Vector) -> Vector:
    length = math.sqrt(vector @ vector)
    return vector / np.float32(length) if length else vector


def _installed() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError("the semantic cache needs more packages: pip install 'weir-proxy[semantic]'")
    return Path(next(iter(found.submodule_search_locations)))


def _tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _mapped(path: Path) -> npt.NDArray[np.float16]:
    """The one tensor of the file, not read but mapped. The format: a length, a JSON header, the data."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))[_TENSOR]
    if header["dtype"] != "F16":
        raise MissingPackageError(
            f"{path} holds {header['dtype']}, not F16; another version of {_PACKAGE} is installed"
        )
    start = 8 + size + int(header["data_offsets"][0])
    mapped: npt.NDArray[np.float16] = np.memmap(path, np.float16, "r", start, tuple(header["shape"]))
    return mapped.view(np.ndarray)  # the same pages; a plain array is indexed twice as fast
