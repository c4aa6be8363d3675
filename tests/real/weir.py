"""Weir as its users run it: a command, a deployment file, a port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.simulator.ports import free_port

from .process import alive, answers, running, until

COMMAND = (sys.executable, "-m", "proxy.cli")


@dataclass(frozen=True, slots=True)
class Weir:
    """A running `weir serve`: its data port, its ops port, and the directory of its journal."""

    port: int
    ops: int
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def command(self, *words: str) -> str:
        """What `weir WORDS` prints, asked as a user would, beside the running server."""
        env = environment(self.home)
        done = subprocess.run((*COMMAND, *words), env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"weir {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def weir_server(deployment: Mapping[str, Any], directory: Path) -> Iterator[Weir]:
    """`weir serve --config FILE` for `deployment`, on ports of its own, ready."""
    directory.mkdir()
    server = Weir(free_port(), free_port(), directory / "home")
    places = {"listen": server.port, "ops": server.ops, "admin": free_port()}
    file = {"version": 1, "home": str(server.home), **{key: f"127.0.0.1:{port}" for key, port in places.items()}}
    config = directory / "weir.yaml"
    config.write_text(json.dumps({**file, **deployment}, indent=2))  # JSON is YAML
    log = directory / "weir.log"
    with running((*COMMAND, "serve", "--config", str(config)), log, environment(server.home)) as process:

        def ready() -> bool:
            alive(process, log)
            return answers(f"http://127.0.0.1:{server.ops}/readyz")

        until(ready, what="weir serve ready")
        yield server


def environment(home: Path) -> dict[str, str]:
    """Ours, without what would bend the requests or colour the output."""
    unwanted = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "UPSTREAM", "OPENAI_API_KEY", "FORCE_COLOR"}
    kept = {key: value for key, value in os.environ.items() if key.upper() not in unwanted}
    return kept | {"WEIR_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
