"""Noticing that files changed."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.config.files import directories, stamp, with_links

from .conftest import OPENAI, Directory


def test_a_kubernetes_mount(tmp_path: Path) -> None:
    """A swapped `..data` link is one of the watched paths, its directory is watched, and the stamp changes."""
    for name, text in (("..v1", "one"), ("..v2", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weir.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "weir.yaml").symlink_to("..data/weir.yaml")
    watched = with_links(tmp_path / "weir.yaml")
    assert set(watched) == {tmp_path / name for name in ("weir.yaml", "..data", "..data/weir.yaml", "..v1/weir.yaml")}
    assert tmp_path in directories(watched)
    before = stamp(watched)
    (tmp_path / "..new").symlink_to("..v2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert stamp(watched) != before
    assert (tmp_path / "weir.yaml").read_text() == "two"


def test_edits_and_replacements(tmp_path: Path) -> None:
    """An edit, a replacement by rename, and a removal each change the stamp."""
    path = tmp_path / "a"
    path.write_text("one")
    stamps = [stamp([path])]
    path.write_text("longer")
    stamps.append(stamp([path]))
    (tmp_path / "b").write_text("longer")
    os.replace(tmp_path / "b", path)
    stamps.append(stamp([path]))
    path.unlink()
    stamps.append(stamp([path]))
    assert len(set(stamps)) == 4
    assert stamps[-1] == (None,)


def test_links_in_a_circle(tmp_path: Path) -> None:
    """Links that lead to each other end the search."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert set(with_links(tmp_path / "a")) == {tmp_path / "a", tmp_path / "b"}


def test_all_files_are_watched(directory: Directory) -> None:
    """Deployment, policies, teams, certificates and key files all count."""
    for name in ("ca.pem", "key"):
        (directory.path / name).write_text("canary")
    directory.write(
        weir=f"version: 1\nupstreams:\n  {OPENAI}\n  b: {{url: https://b/v1, ca: ca.pem, key: {{file: key}}}}\n"
        "models: {'*': {upstream: b}}\npolicies: p.yaml\nteams: t.yaml\n",
        p="version: 1\n",
        t="version: 1\n",
    )
    names = {path.name for path in directory.load().watched}
    assert names >= {"weir.yaml", "p.yaml", "t.yaml", "ca.pem", "key"}
