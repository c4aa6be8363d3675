"""A directory to write files in, and a registry of policies that exist only here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from proxy.config import ConfigurationError, Order, Percent, Strict, load

OPENAI = 'openai: {url: https://api.openai.com/v1, key: "${OPENAI_API_KEY}"}'
ENV = {"OPENAI_API_KEY": "sk-canary-123", "HOME": "/home/someone"}


class Edits(Strict):
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class HeadersConfig(Strict):
    """Adds and removes header fields."""

    request: Edits = Edits()
    """What changes on the way up."""
    response: Edits = Edits()
    """What changes on the way down."""


class AllowConfig(Strict):
    models: tuple[str, ...] = ("*",)
    deny_models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ("*",)
    stateful: bool = False


class CacheConfig(BaseModel):
    """As a third party may write it: extra keys ignored, no types of ours except one."""

    ttl: int = 60
    max_error: Percent = 0.01
    null_means_something: str | None = None


def module(config: type[BaseModel], order: Order | None = None) -> Any:
    return SimpleNamespace(Config=config, build=lambda config, services: None, ORDER=order)


def broken() -> Any:
    raise ImportError("no module named 'numpy'")


REGISTRY: dict[str, Callable[[], Any]] = {
    "headers": lambda: module(HeadersConfig),
    "allow": lambda: module(AllowConfig),
    "cache": lambda: module(CacheConfig, Order(outside=("retry",), why="an answer from the cache needs no retry")),
    "retry": lambda: module(Strict),
    "budget": lambda: module(Strict, Order(inside=("cache", "not-installed"))),
    "broken": broken,
}


class Directory:
    """Writes files, loads them, and gives what came out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / f"{name}.yaml").write_text(text, encoding="utf-8")

    def load(self, env: Mapping[str, str] = ENV, **overrides: Any) -> Any:
        return load(self.path / "weir.yaml", env, registry=REGISTRY, overrides=overrides)

    def problems(self, env: Mapping[str, str] = ENV, **overrides: Any) -> list[str]:
        """Every problem as text, with the directory left out."""
        try:
            found: Any = self.load(env, **overrides).warnings
        except ConfigurationError as error:
            found = error.problems
        return [str(problem).replace(f"{self.path}/", "") for problem in found]

    def policy_problems(self, entries: str) -> list[str]:
        """The problems of a policy file that begins with `policies:` in line 2."""
        self.write(
            weir=f"version: 1\nupstreams:\n  {OPENAI}\npolicies: p.yaml\n", p=f"version: 1\npolicies:\n{entries}"
        )
        return self.problems()


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A fresh directory."""
    return Directory(tmp_path)
