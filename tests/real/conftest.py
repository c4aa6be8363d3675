"""The servers of these tests, one of each a session, and the clients that ask them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from . import gguf_model
from .llama import Llama, llama_server
from .simulator import Simulator, simulator_server
from .weir import Weir, weir_server


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the processes say, kept with pytest's temporary directories."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="session")
def model_file(pytestconfig: pytest.Config) -> Path:
    """The random model, made anew whenever the code that makes it changes."""
    source = Path(gguf_model.__file__).read_bytes()
    path = pytestconfig.cache.mkdir("llama") / f"tiny-{hashlib.sha256(source).hexdigest()[:12]}.gguf"
    if not path.exists():
        gguf_model.write(path)
    return path


@pytest.fixture(scope="session")
def llama(model_file: Path, logs: Path) -> Iterator[Llama]:
    """llama.cpp's server, answering chats."""
    with llama_server(model_file, "chat", logs / "llama-chat.log") as server:
        yield server


@pytest.fixture(scope="session")
def embedder(model_file: Path, logs: Path) -> Iterator[Llama]:
    """llama.cpp's server in embedding mode."""
    with llama_server(model_file, "embedding", logs / "llama-embedding.log") as server:
        yield server


@pytest.fixture(scope="session")
def lonely(model_file: Path, logs: Path) -> Iterator[Llama]:
    """llama.cpp's server that only cancellations go to, through one connection at most."""
    with llama_server(model_file, "chat", logs / "llama-lonely.log") as server:
        yield server


@pytest.fixture(scope="session")
def simulator(logs: Path) -> Iterator[Simulator]:
    """The built-in simulator, for faults and prices that llama.cpp does not have."""
    with simulator_server(logs / "simulator.log") as server:
        yield server


@pytest.fixture(scope="session")
def weir(llama: Llama, embedder: Llama, lonely: Llama, simulator: Simulator, logs: Path) -> Iterator[Weir]:
    """`weir serve` in front of all of them, with no keys, so that the client's own key passes through."""
    deployment = {
        "upstreams": {
            "llama": {"url": llama.url},
            "embedder": {"url": embedder.url},
            "lonely": {"url": lonely.url, "pool": {"max_connections": 1, "warm": 0}},
            "simulator": {"url": simulator.url, "provider": "openai"},
            "simulated-anthropic": {"url": simulator.url, "provider": "anthropic"},
        },
        "models": {
            "tiny-random": {"upstream": "llama"},
            "tiny-embedding": {"deployments": [{"upstream": "embedder", "model": "tiny-random"}]},
            "tiny-lonely": {"deployments": [{"upstream": "lonely", "model": "tiny-random"}]},
            "claude-*": {"upstream": "simulated-anthropic"},
            "*": {"upstream": "simulator"},
        },
    }
    with weir_server(deployment, logs / "weir") as server:
        yield server


@pytest.fixture
def direct(llama: Llama) -> Iterator[openai.OpenAI]:
    """openai-python, straight to llama.cpp."""
    with openai.OpenAI(base_url=llama.url, api_key="sk-of-the-client", max_retries=0) as client:
        yield client


@pytest.fixture
def through(weir: Weir) -> Iterator[openai.OpenAI]:
    """The same client with only its base URL changed."""
    with openai.OpenAI(base_url=weir.url, api_key="sk-of-the-client", max_retries=0) as client:
        yield client
