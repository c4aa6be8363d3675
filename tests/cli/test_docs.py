"""The guide names every command and every option, and no other; its pages are found, its examples sound."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from proxy.cli.app import app
from tests.cli.conftest import Weir

GUIDE = Path(__file__).parents[2] / "docs/guide"
SIMULATOR_OPTIONS = "weir simulate"


def commands(group: Any, prefix: str = "weir") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


def sections() -> dict[str, str]:
    """The text of the reference by command."""
    parts = re.split(r"(?m)^## (.+)$", (GUIDE / "cli.md").read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options(command: Any) -> set[str]:
    """The options of a command as they are typed."""
    return {option for parameter in command.params for option in parameter.opts if option.startswith("-")}


def test_every_command_has_its_section() -> None:
    """The sections are the commands."""
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str, weir: Weir) -> None:
    """The section names each option of the command, and no other."""
    if name == SIMULATOR_OPTIONS:
        real = set(re.findall(r"--[a-z-]+", weir("simulate", "--help").stdout)) - {"--help"}
    else:
        real = options(COMMANDS[name]) - {"--help", "-h"}
    named = set(re.findall(r"(?<![\w-])(--?[a-z-]+|-H)(?=[`\s])", re.sub(r"(?m)^    .*$", "", sections()[name])))
    named |= set(re.findall(r"(?<=`)(--?[a-zA-Z-]+)(?=`)", sections()[name]))
    assert named == real


def test_every_command_explains_itself(weir: Weir) -> None:
    """The help of the whole names each command with a sentence that isn't cut."""
    done = weir("--help")
    for name in COMMANDS:
        assert re.search(rf"(?m)^  {name.split()[1]} .*\.$", done.stdout), name


def test_example_files_are_sound(weir: Weir, tmp_path: Path) -> None:
    """The files that the guide begins with pass `weir check` as they stand there."""
    blocks = re.findall(r"(?s)```yaml\n(.*?)```", (GUIDE / "getting-started.md").read_text())
    deployment, policies = blocks
    (tmp_path / "weir.yaml").write_text(deployment)
    (tmp_path / "policies.yaml").write_text(policies)
    done = weir("check", OPENAI_API_KEY="sk-test")
    assert (done.returncode, done.stdout) == (0, "ok weir.yaml\n"), done.stderr


def test_links_lead_somewhere() -> None:
    """Every relative link of the front pages and the guide names a file that exists."""
    root = GUIDE.parents[1]
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *GUIDE.glob("*.md"), *root.glob("docs/decisions/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reachable() -> None:
    """The index of the documentation, and that of the decisions, name every page."""
    docs = GUIDE.parent
    named = {
        (index.parent / target).resolve()
        for index in (docs / "index.md", docs / "decisions/README.md")
        for target in re.findall(r"\]\(([^)#:]+)", index.read_text())
    }
    assert {page.resolve() for page in docs.rglob("*.md")} - named == {(docs / "index.md").resolve()}
