"""The files that tiktoken needs: where they are kept, whether they are whole, and fetching them.

A cache is a directory as tiktoken itself keeps one: each file is named by the SHA-1 of its address. It is looked for in
WEIR_TIKTOKEN_CACHE, then TIKTOKEN_CACHE_DIR, then `tiktoken` under the home directory. Only what has the right SHA-256
is used, so that tiktoken never goes to the network by itself.
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

SOURCE: Final = "https://openaipublic.blob.core.windows.net/encodings"
VARIABLES: Final = ("WEIR_TIKTOKEN_CACHE", "TIKTOKEN_CACHE_DIR")
_TIMEOUT_S: Final = 30.0
_MOST_BYTES: Final = 64 * 2**20


class Ranks(msgspec.Struct, frozen=True):
    """One tokenizer's file. `models` says in words whose it is."""

    encoding: str
    sha256: str
    models: str

    @property
    def file_name(self) -> str:
        """Its name in a cache."""
        return hashlib.sha1(f"{SOURCE}/{self.encoding}.tiktoken".encode(), usedforsecurity=False).hexdigest()


ALL: Final = (
    Ranks(
        "o200k_base",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        "gpt-4o, gpt-4.1, gpt-5 and later, o1 and later",
    ),
    Ranks(
        "cl100k_base",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "gpt-4, gpt-3.5, text-embedding-3, text-embedding-ada-002",
    ),
)


class Unusable(Exception):  # noqa: N818 - said of a file
    """What was fetched isn't the file that was wanted."""


def cache_dir(environment: Mapping[str, str], home: Path) -> Path:
    """Where the files are looked for."""
    for variable in VARIABLES:
        if found := environment.get(variable):
            return Path(found)
    return home / "tiktoken"


def present(directory: Path, ranks: Ranks) -> bool:
    """Whether a file is there, whole. Reads it."""
    try:
        return hashlib.sha256((directory / ranks.file_name).read_bytes()).hexdigest() == ranks.sha256
    except OSError:
        return False


def any_there(directory: Path) -> bool:
    """Whether a cache has any file by name; cheap, for whoever decides whether to start the counting process."""
    return any((directory / ranks.file_name).is_file() for ranks in ALL)


def fetch(directory: Path, ranks: Ranks, source: str = SOURCE) -> int:
    """Brings one file into a cache, whole or not at all; its size in bytes. Raises OSError or Unusable."""
    address = f"{source.rstrip('/')}/{ranks.encoding}.tiktoken"
    if not address.startswith(("https://", "http://")):
        raise Unusable(f"{address}: only http and https are fetched")
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:  # noqa: S310  # checked above
        data = answer.read(_MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != ranks.sha256:
        raise Unusable(f"{address} isn't the file that OpenAI published: its SHA-256 differs")
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f".{ranks.file_name}.{os.getpid()}"
    unfinished.write_bytes(data)
    unfinished.replace(directory / ranks.file_name)
    return len(data)
