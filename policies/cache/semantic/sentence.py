"""Vectors of sentences by a small transformer on this machine: all-MiniLM-L6-v2 and others of its form.

A directory holds it as sentence-transformers save it: `model.safetensors`, `config.json`, `tokenizer.json`. The form is
BERT's encoder (Devlin et al., arXiv 1810.04805), the mean of its last layer over the text's tokens, of length 1. numpy
alone computes it, some milliseconds a text, so never on the loop. The weights are mapped: workers share one copy.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from policies.cache.semantic.static import MissingPackageError, Vector

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_TOKENS: Final = 256
_PIECE: Final = 2**20
_KINDS: Final = {"F32": np.float32, "F16": np.float16}


class Sentence:
    """Text to vector. Safe in several threads."""

    def __init__(self, home: Path) -> None:
        weights, config = home / "model.safetensors", home / "config.json"
        for path in (weights, config, home / "tokenizer.json"):
            if not path.is_file():
                raise MissingPackageError(f"`embedder: minilm` needs {path}: `model` names a directory that has it")
        told = json.loads(config.read_bytes())
        if told.get("model_type") != "bert" or told.get("hidden_act", "gelu") != "gelu":
            raise MissingPackageError(f"{config} describes no model of BERT's form")
        self._heads = int(told["num_attention_heads"])
        self._epsilon = float(told.get("layer_norm_eps", 1e-12))
        self._of = _mapped(weights)
        self._layers = int(told["num_hidden_layers"])
        self._tokenizer = _tokenizer(home / "tokenizer.json", min(_MOST_TOKENS, int(told["max_position_embeddings"])))
        self.name = f"minilm:{_digest(weights)}"
        self.dimensions = int(told["hidden_size"])

    def __repr__(self) -> str:
        return f"<Sentence {self.name}>"

    def vector(self, text: str) -> Vector:
        """Of a text; its length is 1."""
        ids = self._tokenizer.encode(text).ids
        x = self._table("word_embeddings")[ids] + self._table("position_embeddings")[: len(ids)]
        x = self._normed(x + self._table("token_type_embeddings")[0], "embeddings.LayerNorm")
        for number in range(self._layers):
            x = self._layer(x, f"encoder.layer.{number}.")
        mean: Vector = x.mean(0, dtype=np.float32)
        return mean / np.float32(np.linalg.norm(mean) or 1.0)

    def _layer(self, x: Vector, name: str) -> Vector:
        seen = self._dense(self._attended(x, f"{name}attention.self."), f"{name}attention.output.dense")
        x = self._normed(x + seen, f"{name}attention.output.LayerNorm")
        wide = _gelu(self._dense(x, f"{name}intermediate.dense"))
        return self._normed(x + self._dense(wide, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _attended(self, x: Vector, name: str) -> Vector:
        """What each token makes of all others, head by head."""
        count, width = x.shape
        shape = (count, self._heads, width // self._heads)
        query, key, value = (
            self._dense(x, name + part).reshape(shape).transpose(1, 0, 2) for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(shape[2]))
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        shares = scores / scores.sum(-1, keepdims=True)
        seen: Vector = (shares @ value).transpose(1, 0, 2).reshape(count, width)
        return seen

    def _dense(self, x: Vector, name: str) -> Vector:
        result: Vector = x @ self._of[f"{name}.weight"].T + self._of[f"{name}.bias"]
        return result

    def _normed(self, x: Vector, name: str) -> Vector:
        rest = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((rest * rest).mean(-1, keepdims=True) + np.float32(self._epsilon))
        result: Vector = rest / scale * self._of[f"{name}.weight"] + self._of[f"{name}.bias"]
        return result

    def _table(self, name: str) -> Vector:
        return self._of[f"embeddings.{name}.weight"]


def _gelu(x: Vector) -> Vector:
    """x times the normal distribution up to x; its error function by Abramowitz and Stegun, 7.1.26 (to 1.5e-7)."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = series * np.exp(-z * z) / 2
    result: Vector = (x * np.where(x > 0, 1 - tail, tail)).astype(np.float32)
    return result


def _tokenizer(path: Path, most: int) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(most)
    tokenizer.no_padding()
    return tokenizer


def _mapped(path: Path) -> dict[str, Vector]:
    """The tensors of a file, not read but mapped. The format: a length, a JSON header, the data."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size)
    return {
        name.removeprefix("bert."): _tensor(data, told)
        for name, told in header.items()
        if name != "__metadata__" and told["dtype"] in _KINDS
    }


def _tensor(data: npt.NDArray[np.uint8], told: dict[str, Any]) -> Vector:
    begin, end = told["data_offsets"]
    found = data[begin:end].view(np.ndarray).view(_KINDS[told["dtype"]]).reshape(told["shape"])
    return found.astype(np.float32, copy=False)


def _digest(path: Path) -> str:
    """Tells one set of weights from another: by its size, its beginning and its end."""
    digest, size = hashlib.blake2b(digest_size=8), path.stat().st_size
    digest.update(b"%d" % size)
    with path.open("rb") as file:
        digest.update(file.read(_PIECE))
        file.seek(max(0, size - _PIECE))
        digest.update(file.read())
    return digest.hexdigest()
