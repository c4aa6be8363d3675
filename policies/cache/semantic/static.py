"""Vectors without a network: the mean of a text's token vectors, from a table that comes with a package.

The table (32,000 tokens, 256 dimensions, half precision) and its tokenizer are the files of the `wordllama` package
(MIT). They are found without importing it, and the table is mapped, so that all workers of a host share one copy.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
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
Tokens = npt.NDArray[np.uint16]


class MissingPackageError(Exception):
    """What the semantic tier needs isn't installed; the text says how to."""


class Static:
    """Text to vector. Some tens of microseconds a text; safe in several threads."""

    def __init__(self) -> None:
        home = _installed()
        self._tokens: Tokenizer = _tokenizer(home / _TOKENIZER)
        self._table = _mapped(home / _WEIGHTS)
        self.name = f"static:{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}"
        self.dimensions = int(self._table.shape[1])

    def tokens(self, text: str) -> Tokens:
        """The text's tokens, at least one."""
        return np.array(self._tokens.encode(text, add_special_tokens=False).ids or [0], dtype=np.uint16)

    def rows(self, tokens: Tokens) -> Vector:
        """The vectors of tokens."""
        return self._table[tokens].astype(np.float32)

    def vector(self, rows: Vector) -> Vector:
        """Of a text, by its tokens' vectors; its length is 1."""
        mean: Vector = rows.mean(0, dtype=np.float32)
        length = float(np.sqrt(mean @ mean))
        return mean / np.float32(length) if length else mean


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
