"""A llama-architecture model file with random weights: a real model to a real server, made in half a second.

Everything about the model lives here, and nothing about the server. The text it writes is noise; the tokens, their
counts, their log probabilities, the grammar of a JSON schema, a tool call and the end of the context window are as real
as those of a trained model. The same version of Python gives the same file.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

REVISION = 1  # part of the cached file's name: raise it with every change below

BOS, PAD, TURN, END_OF_TURN = CONTROL = ("<s>", "<pad>", "<|im_start|>", "<|im_end|>")
CALL, END_OF_CALL = MARKUP = (
    "<tool_call>",
    "</tool_call>",
)  # one token each: a logit bias for CALL makes the model call a tool
CHAT_TEMPLATE = """
{%- if tools -%}
<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call with <tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call>.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""  # the server derives the grammar of a tool call from what this renders
VOCABULARY = 2048
LAYERS, WIDTH, HEADS, KV_HEADS = 2, 128, 4, 2
HEAD, INNER = WIDTH // HEADS, 2 * WIDTH
CONTEXT = 1 << 20  # rotary positions need no table: the server chooses how much of it to use
SPREAD = 0.3  # of the weights: logits a few apart, so that the greedy token is never a tie
CORPUS = (
    "argparse.py",
    "asyncio/streams.py",
    "dataclasses.py",
    "email/message.py",
    "http/client.py",
    "inspect.py",
    "typing.py",
)


def write(path: Path, layers: int = LAYERS) -> None:
    """Write the model to `path`, whole or not at all; with more layers it is a larger one."""
    draft = path.with_suffix(".draft")
    writer = gguf.GGUFWriter(str(draft), "llama")
    _add_shape(writer, layers)
    _add_tokenizer(writer)
    _add_weights(writer, np.random.default_rng(20_250_101), layers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    draft.rename(path)


def _add_shape(writer: gguf.GGUFWriter, layers: int) -> None:
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_block_count(layers)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    pairs = _byte_pairs()
    tokens = sorted(pairs["vocab"], key=pairs["vocab"].__getitem__)
    assert len(tokens) == VOCABULARY, f"the corpus gave only {len(tokens)} tokens"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_kind(t) for t in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in pairs["merges"]])
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(END_OF_TURN))
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _kind(token: str) -> gguf.TokenType:
    if token in CONTROL:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.USER_DEFINED if token in MARKUP else gguf.TokenType.NORMAL


def _byte_pairs() -> dict:
    """A byte-level vocabulary trained on some of the standard library: `vocab` and `merges`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*CONTROL, *MARKUP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library = Path(sysconfig.get_path("stdlib"))
    tokenizer.train([str(library / name) for name in CORPUS], trainer)
    return json.loads(tokenizer.to_str())["model"]


def _add_weights(writer: gguf.GGUFWriter, random: np.random.Generator, layers: int) -> None:
    def noise(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * SPREAD).astype(np.float32)

    unit = np.ones(WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", noise(VOCABULARY, WIDTH))
    writer.add_tensor("output_norm.weight", unit)
    writer.add_tensor("output.weight", noise(VOCABULARY, WIDTH))
    for layer in range(layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", unit)
        writer.add_tensor(f"{block}.attn_q.weight", noise(HEADS * HEAD, WIDTH))
        writer.add_tensor(f"{block}.attn_k.weight", noise(KV_HEADS * HEAD, WIDTH))
        writer.add_tensor(f"{block}.attn_v.weight", noise(KV_HEADS * HEAD, WIDTH))
        writer.add_tensor(f"{block}.attn_output.weight", noise(WIDTH, HEADS * HEAD))
        writer.add_tensor(f"{block}.ffn_norm.weight", unit)
        writer.add_tensor(f"{block}.ffn_gate.weight", noise(INNER, WIDTH))
        writer.add_tensor(f"{block}.ffn_up.weight", noise(INNER, WIDTH))
        writer.add_tensor(f"{block}.ffn_down.weight", noise(WIDTH, INNER))
