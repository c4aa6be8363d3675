"""The reference is what the code says, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.config.registry import installed
from proxy.reference import pages
from proxy.reference.errors import sources
from proxy.reference.headers import HEADERS
from proxy.reference.raised import Raised, raised

REFERENCE = Path(__file__).parents[1] / "docs/reference"
PAGES = pages()
INSIDE = {"not_an_answer"}  # why the cascade doesn't count an answer; no client sees it


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    """The page in the repository is what the code says; `python -m proxy.reference` writes it."""
    assert (REFERENCE / name).read_text("utf-8") == PAGES[name]


def test_every_code_is_there() -> None:
    """Each word that the source gives as a code, by name or in a table, has its row."""
    rows = set(re.findall(r"(?m)^\| `([^`]+)` \|", PAGES["errors.md"]))
    written = {code for text in sources().values() for code in re.findall(r'code="([a-z_]+)"', text)}
    assert written - INSIDE <= rows
    assert {"upstream_unreachable", "rate_limit_exceeded", "insufficient_quota", "invalid_token"} <= rows


def test_every_header_is_there() -> None:
    """The source names these headers of ours, and no others."""
    found = {name for text in sources().values() for name in re.findall(r"x-weir-[a-z-]*[a-z]", text)}
    assert found == {header.name for header in HEADERS}


def test_every_policy_and_option_is_there() -> None:
    """Each policy that is installed has a section, and each of its options a row that says what it means."""
    sections = re.split(r"(?m)^## (.+)$", PAGES["policy-options.md"])
    by_name = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert by_name.keys() == installed().keys()
    for name, load in installed().items():
        for option, field in load().Config.model_fields.items():
            assert re.search(rf"(?m)^\| `{field.alias or option}` \| .+ \| .* \| \S.* \|$", by_name[name]), (
                name,
                option,
            )


def test_how_errors_are_found() -> None:
    """A text with what differs, a constant of another module, both sides of a choice, and a function that is given
    the code where it is called, with what it is given if it isn't."""
    errors = 'RATE = "rate_limit_error"\nclass WeirError(Exception): ...\n'
    maker = (
        "from proxy.errors import RATE, WeirError\n"
        "def late(message, code='late'):\n    return WeirError(503, message, type=RATE, code=code)\n"
        "def one(name):\n    message = f'no {name}'\n    return WeirError(404, message, code='a' if name else 'b')\n"
    )
    user = "from m import late\nFIXED = late('x')\ndef two():\n    raise late('too late', 'later')\n"
    assert raised({"proxy.errors": errors, "m": maker, "n": user}) == {
        Raised("a", "404", "invalid_request_error", "no …"),
        Raised("b", "404", "invalid_request_error", "no …"),
        Raised("late", "503", "rate_limit_error", "x"),
        Raised("later", "503", "rate_limit_error", "too late"),
    }
