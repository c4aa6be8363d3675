"""What holds for every command: versions, exit statuses, one clear line instead of a traceback, no colours in pipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy import __version__
from tests.cli.conftest import Weir


def test_version_needs_nothing_of_the_mechanism() -> None:
    """`weir --version` answers without importing pydantic, aiohttp or even typer, so it is instant."""
    code = (
        "import sys; sys.argv = ['weir', '--version']\n"
        "from proxy.cli import main\n"
        "main(); print(sorted({'typer', 'rich', 'pydantic', 'aiohttp', 'uvloop'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"weir {__version__}", "[]"]


def test_help_imports_no_mechanism() -> None:
    """The tree of commands loads without the mechanism, so that completion in the shell stays quick."""
    code = "import sys, proxy.cli.app; print(sorted({'pydantic', 'aiohttp', 'uvloop', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_version_among_options(weir_process: Weir) -> None:
    """The version is an ordinary option too."""
    done = weir_process("--version", "serve")
    assert (done.returncode, done.stdout) == (0, f"weir {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serv"], "Did you mean 'serve'?"),
        (["serve", "--portt", "1"], "No such option: --portt"),
        (["serve", "--workers", "0"], "--workers"),
        (["serve", "--demo", "--upstream", "http://127.0.0.1:1"], "exclude each other"),
        (["schema", "policy"], "policies"),
        (["keys", "revoke"], "Missing argument"),
        (["keys", "create", "--tag", "x"], "a tag is NAME=VALUE"),
        (["keys", "create", "--expires", "soon"], "neither a duration"),
        (["keys", "create", "--expires", "2001-01-01"], "that is past"),
    ],
)
def test_wrong_command_line_exits_2(weir_process: Weir, arguments: list[str], said: str) -> None:
    """A wrong command line says what is wrong on stderr and exits with 2."""
    done = weir_process(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "nowhere.yaml"],
        ["serve", "--config", "nowhere.yaml"],
        ["keys", "revoke", "key_nobody"],
        ["keys", "list", "--config", "nowhere.yaml"],
    ],
)
def test_expected_failure_is_one_line(weir_process: Weir, arguments: list[str]) -> None:
    """What can be expected to fail does so in one line on stderr, without colours, and exits with 1."""
    done = weir_process(*arguments)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("weir: ")
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(weir_process: Weir, shell: str) -> None:
    """The script for the shell's completion is offered and names the command."""
    done = weir_process("--show-completion", shell)
    assert done.returncode == 0
    assert "weir" in done.stdout


def test_completion_offers_the_commands(weir_process: Weir) -> None:
    """The shell is offered the commands that begin with what was typed."""
    done = weir_process(_WEIR_COMPLETE="complete_bash", COMP_WORDS="weir ke", COMP_CWORD="1")
    assert "keys" in done.stdout.split()


def test_installed_command(tmp_path: Path) -> None:
    """The console script beside the interpreter is this command."""
    script = Path(sys.executable).with_name("weir")
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"weir {__version__}\n"
