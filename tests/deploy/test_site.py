"""The documentation as a site."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, ran


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """Every page becomes one, and no link leads nowhere."""
    pytest.importorskip("mkdocs", reason="no mkdocs here (pip install mkdocs)")
    ran(sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site", cwd=ROOT)
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(tmp_path / "site").parent for page in (tmp_path / "site").rglob("index.html")}
    assert built >= {page.parent if page.name in ("index", "README") else page for page in pages}
