"""The guide's page: its table is the table, its examples run, its files load."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from proxy.simulator import Scenario, Simulator, fault_table

PAGE = (Path(__file__).parents[2] / "docs/guide/simulator.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_the_table_of_faults_is_on_the_page() -> None:
    """The page has the table that `--list-faults` prints."""
    assert fault_table() in PAGE


@pytest.mark.parametrize("text", blocks("yaml"))
def test_scenarios_load(text: str) -> None:
    """Each YAML block is a scenario."""
    assert Scenario.model_validate(yaml.safe_load(text)).faults


async def _run(simulator: Simulator, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", "NO_PROXY": "*"}
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("text", blocks("python"))
async def test_python_examples_run(simulator: Simulator, text: str) -> None:
    """Each Python block runs against a fresh simulator."""
    await _run(simulator, sys.executable, "-c", text.replace("http://127.0.0.1:9999", simulator.origin))


LINES = [line for text in blocks("sh") for line in text.splitlines() if line.startswith("curl")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", LINES)
async def test_curl_examples_run(simulator: Simulator, line: str) -> None:
    """Each curl line gets an answer."""
    assert await _run(simulator, "/bin/sh", "-c", line.replace("http://127.0.0.1:9999", simulator.origin))
