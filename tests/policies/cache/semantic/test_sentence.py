"""Vectors by a small transformer: a tiny one against its formulas written out, the real one where it is at hand."""

from __future__ import annotations

import json
import math
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from policies.cache.options import Semantic
from policies.cache.semantic.sentence import Sentence
from policies.cache.semantic.static import MissingPackageError
from tests.plane.conftest import Serve
from tests.plane.running import entry
from tests.policies.cache.semantic.upstream import scripted

WIDE, WIDER, HEADS, LAYERS, WORDS = 8, 12, 2, 2, ["[UNK]", "how", "deep", "is", "the", "river"]
Rows = list[list[float]]


def tensors(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)

    def table(*shape: int) -> Any:
        return [table(*shape[1:]) for _ in range(shape[0])] if shape else rng.gauss(0, 0.5)

    found = {
        "embeddings.word_embeddings.weight": table(len(WORDS), WIDE),
        "embeddings.position_embeddings.weight": table(16, WIDE),
        "embeddings.token_type_embeddings.weight": table(2, WIDE),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}."
        for dense, out, into in (
            *((f"attention.self.{part}", WIDE, WIDE) for part in ("query", "key", "value")),
            ("attention.output.dense", WIDE, WIDE),
            ("intermediate.dense", WIDER, WIDE),
            ("output.dense", WIDE, WIDER),
        ):
            found[f"{name}{dense}.weight"], found[f"{name}{dense}.bias"] = table(out, into), table(out)
    for norm in (
        "embeddings.",
        *(f"encoder.layer.{n}.{of}output." for n in range(LAYERS) for of in ("attention.", "")),
    ):
        found[f"{norm}LayerNorm.weight"], found[f"{norm}LayerNorm.bias"] = table(WIDE), table(WIDE)
    return found


def saved(home: Path, seed: int = 1, activation: str = "gelu") -> Path:
    """A model as sentence-transformers save it."""
    home.mkdir()
    data, header = b"", {}
    for name, values in tensors(seed).items():
        flat = [one for row in values for one in row] if isinstance(values[0], list) else values
        shape = [len(values), len(values[0])] if isinstance(values[0], list) else [len(values)]
        packed = struct.pack(f"<{len(flat)}f", *flat)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    (home / "model.safetensors").write_bytes(struct.pack("<Q", len(said)) + said + data)
    told = {"num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "hidden_size": WIDE}
    more = {"max_position_embeddings": 16, "model_type": "bert", "hidden_act": activation}
    (home / "config.json").write_text(json.dumps({**told, **more}))
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(home / "tokenizer.json"))
    return home


def written_out(of: dict[str, Any], ids: list[int]) -> list[float]:
    """The encoder, number by number."""

    def dense(x: Rows, name: str) -> Rows:
        weight, bias = of[f"{name}.weight"], of[f"{name}.bias"]
        return [[sum(map(float.__mul__, row, w)) + b for w, b in zip(weight, bias, strict=True)] for row in x]

    def normed(x: Rows, name: str) -> Rows:
        weight, bias, result = of[f"{name}.weight"], of[f"{name}.bias"], []
        for row in x:
            mean = sum(row) / len(row)
            scale = math.sqrt(sum((one - mean) ** 2 for one in row) / len(row) + 1e-12)
            result.append([(one - mean) / scale * w + b for one, w, b in zip(row, weight, bias, strict=True)])
        return result

    def plus(x: Rows, y: Rows) -> Rows:
        return [[a + b for a, b in zip(one, two, strict=True)] for one, two in zip(x, y, strict=True)]

    tables = [of[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = normed(
        [
            [a + b + c for a, b, c in zip(tables[0][id], tables[1][at], tables[2][0], strict=True)]
            for at, id in enumerate(ids)
        ],
        "embeddings.LayerNorm",
    )
    size = WIDE // HEADS
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}."
        query, key, value = (dense(x, f"{name}attention.self.{part}") for part in ("query", "key", "value"))
        seen: Rows = [[] for _ in x]
        for head in range(HEADS):
            part = slice(head * size, head * size + size)
            for at, asks in enumerate(query):
                scores = [math.exp(sum(map(float.__mul__, asks[part], k[part])) / math.sqrt(size)) for k in key]
                shares = [score / sum(scores) for score in scores]
                seen[at] += [sum(s * v[part][d] for s, v in zip(shares, value, strict=True)) for d in range(size)]
        x = normed(plus(x, dense(seen, f"{name}attention.output.dense")), f"{name}attention.output.LayerNorm")
        inner = dense(x, f"{name}intermediate.dense")
        inner = [[one * (1 + math.erf(one / math.sqrt(2))) / 2 for one in row] for row in inner]
        x = normed(plus(x, dense(inner, f"{name}output.dense")), f"{name}output.LayerNorm")
    mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
    length = math.sqrt(sum(one * one for one in mean))
    return [one / length for one in mean]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_the_encoder(tmp_path: Path, seed: int) -> None:
    """As the formulas say, to single precision; the error function's series included."""
    sentence = Sentence(saved(tmp_path / "model", seed))
    for text, ids in (("how deep is the river", [1, 2, 3, 4, 5]), ("river", [5]), ("what", [0])):
        assert sentence.vector(text).tolist() == pytest.approx(written_out(tensors(seed), ids), abs=2e-6)
    assert sentence.dimensions == WIDE


def test_other_weights_have_another_name(tmp_path: Path) -> None:
    """Their vectors are never compared."""
    one, two = (Sentence(saved(tmp_path / str(seed), seed)).name for seed in (1, 2))
    assert one.startswith("minilm:") and one != two


def test_what_isnt_there_or_fits_is_told(tmp_path: Path) -> None:
    """A directory without a model, a model of another form, a model that isn't named."""
    with pytest.raises(MissingPackageError, match=r"needs .*model\.safetensors"):
        Sentence(tmp_path)
    with pytest.raises(MissingPackageError, match="BERT"):
        Sentence(saved(tmp_path / "other", activation="relu"))
    with pytest.raises(ValidationError, match="`model` names"):
        Semantic(max_error="2%", embedder="minilm")  # type: ignore[arg-type]


async def test_it_makes_the_vectors(serve: Serve, tmp_path: Path) -> None:
    """Over HTTP: entries have its vectors, and nothing asks upstream for any."""
    home = saved(tmp_path / "model")
    semantic = {"max_error": "5%", "embedder": "minilm", "model": str(home)}
    policy = entry("cache", exact={"sampled": True}, semantic=semantic)
    async with scripted(str.upper) as upstream, serve(url=upstream.url, policies=[policy]) as plane:
        for text in ("how deep is the river", "is the river deep"):
            answer = await plane.chat(messages=[{"role": "user", "content": text}])
            assert (answer.status, answer.header(b"x-weir-cache")) == (200, b"miss")
        await plane.quiet()
        (room,) = plane.plane.state.chain.built[0].policy._semantic.knowledge.rooms
        assert (len(room.partition), room.partition.dimensions) == (2, WIDE)


@pytest.mark.skipif("WEIR_MINILM" not in os.environ, reason="WEIR_MINILM names no directory with all-MiniLM-L6-v2")
def test_the_real_one() -> None:
    """What means the same is nearer than what shares most words."""
    sentence = Sentence(Path(os.environ["WEIR_MINILM"]))
    asked = sentence.vector("How can I get my money back?")
    same, other = (sentence.vector(text) for text in ("I want a refund", "How can I get my card back?"))
    assert sentence.dimensions == 384
    assert float(asked @ same) > float(asked @ other)
