"""For `make docs`: a link to a file of the repository that is no page of the site becomes the name of that file.

One that leads nowhere stays as it is, so that the strict build complains.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#]+)\)")


def named(markdown: str, directory: Path, docs: Path) -> str:
    """The text of a page in this directory, with such links replaced."""

    def replaced(match: re.Match[str]) -> str:
        target = (directory / match[2]).resolve()
        page = docs.resolve() in target.parents and target.suffix == ".md"
        return match[0] if page or not target.exists() else f"{match[1]} (`{target.relative_to(ROOT.resolve())}`)"

    return LINK.sub(replaced, markdown)


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """mkdocs asks for each page."""
    return named(markdown, Path(page.file.abs_src_path).parent, Path(config.docs_dir))
