"""What `pipx install .` installs: everything of the program, nothing of the workshop."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built as pip builds it."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    if done.returncode:
        pytest.skip(f"the build backend can't be installed here: {done.stderr.strip().splitlines()[-1:]}")
    (built,) = directory.glob("weir_proxy-*.whl")
    return zipfile.ZipFile(built)


def test_holds_every_file_of_the_program(wheel: zipfile.ZipFile) -> None:
    """Every file beside the modules that they may read is shipped with them."""
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("proxy", "policies")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= set(wheel.namelist())


def test_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """No tests, benchmarks or caches are installed on anybody's machine."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"proxy", "policies"}
    assert not [name for name in wheel.namelist() if name.endswith(".pyc")]


def test_offers_the_command_and_the_policies(wheel: zipfile.ZipFile) -> None:
    """The command and the policies are found by their entry points."""
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())
    assert points["console_scripts"]["weir"] == "proxy.cli:main"
    modules = [module.replace(".", "/") for module in points["weir.policies"].values()]
    assert modules
    there = set(wheel.namelist())
    assert [module for module in modules if there.isdisjoint((f"{module}.py", f"{module}/__init__.py"))] == []
