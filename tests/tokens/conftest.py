"""The ranks of OpenAI's tokenizers, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.body import Body, scan
from proxy.tokens import ranks

DATA = Path(os.environ.get("WEIR_DATA", Path(__file__).parents[3] / "shared/data"))


@pytest.fixture
def cache() -> Path:
    """A cache that has every file; skips where there is none."""
    found = next(
        (
            directory
            for directory in (ranks.cache_dir(os.environ, DATA), DATA / "tiktoken")
            if all(ranks.present(directory, one) for one in ranks.ALL)
        ),
        None,
    )
    if found is None:
        pytest.skip("no tokenizers' ranks: `weir tokenizers fetch`, or set TIKTOKEN_CACHE_DIR or WEIR_DATA")
    return found


def body(**fields: Any) -> Body:
    """A request's body."""
    return scan(orjson.dumps(fields))


def chat(*contents: str, **fields: Any) -> Body:
    """A chat request: messages by turns, the first from the user."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return body(model="gpt-4o", messages=messages, **fields)
