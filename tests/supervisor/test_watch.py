"""Changes of files are noticed by content, once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.supervisor.watch import Files, look, same


def replace(path: Path, content: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(content)
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("two"),
        lambda path: replace(path, "two"),
        lambda path: path.unlink(),
    ],
)
def test_any_way_to_change_a_file_shows(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """Writing in place, renaming over it and deleting it all look different."""
    path = tmp_path / "file"
    path.write_text("one")
    before = look([path], {})
    change(path)
    assert not same(before, look([path], before))


def test_the_same_content_is_no_change(tmp_path: Path) -> None:
    """A file that is written again with what it held isn't told, though its times differ."""
    path = tmp_path / "file"
    path.write_text("one")
    before = look([path], {})
    replace(path, "one")
    assert same(before, look([path], before))


def test_a_change_within_one_tick_of_the_clock_shows(tmp_path: Path) -> None:
    """The same size, inode and times don't hide other content in a file that was just written."""
    path = tmp_path / "file"
    path.write_text("one")
    times = path.stat()
    before = look([path], {})
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not same(before, look([path], before))


def test_a_file_that_appears_shows(tmp_path: Path) -> None:
    """What is named may not exist yet."""
    path = tmp_path / "file"
    before = look([path], {})
    path.write_text("one")
    assert not same(before, look([path], before))


class Steps:
    """A clock that a test moves: each `step` lets the watcher look once."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.looked = 0

    async def sleep(self, _: float) -> None:
        self.looked += 1
        await self.permits.acquire()

    async def begun(self) -> None:
        while not self.looked:
            await asyncio.sleep(0)

    async def one_look(self) -> None:
        before = self.looked
        self.permits.release()
        while self.looked == before:
            await asyncio.sleep(0)


async def following(files: Files, steps: Steps, told: list[bool]) -> None:
    """As the supervisor does it."""
    async for _ in files.changes(sleep=steps.sleep):
        told.append(await files.news())


async def test_a_change_is_told_once_it_has_settled(tmp_path: Path) -> None:
    """A file that changes at each look isn't told until it stays; then once."""
    path = tmp_path / "file"
    path.write_text("0")
    steps, told = Steps(), list[bool]()
    watching = asyncio.create_task(following(Files(lambda: [path]), steps, told))
    await steps.begun()
    for content in ("1", "2", "3"):
        path.write_text(content)
        await steps.one_look()
        assert not told
    await steps.one_look()
    assert told == [True]
    await steps.one_look()
    assert told == [True]
    watching.cancel()


async def test_what_somebody_has_read_is_told_to_nobody(tmp_path: Path) -> None:
    """A change that was read between two looks is over; that it was taken back since, is one."""
    path = tmp_path / "file"
    path.write_text("0")
    steps, told, files = Steps(), list[bool](), Files(lambda: [path])
    watching = asyncio.create_task(following(files, steps, told))
    await steps.begun()
    path.write_text("1")
    assert await files.news()
    assert not await files.news()
    await steps.one_look()
    await steps.one_look()
    assert not told
    path.write_text("2")
    assert await files.news()
    path.write_text("1")
    await steps.one_look()
    await steps.one_look()
    assert told == [True]
    watching.cancel()
