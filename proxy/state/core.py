"""The core of the Store that memory and SQLite have in common: everything that is decided, and no I/O.

Each part is a module of its own: holds and their queues (`book`), rate limits (`rates`), duties (`claims`), the feed
(`topics`). Blobs (`blobs`) aren't part of it: nothing is decided about them. What changes is named in `changes`, for
whoever writes it down. Time is handed in.
"""

from __future__ import annotations

from typing import Final

from proxy.state.book import Book
from proxy.state.changes import Changes
from proxy.state.claims import Duties
from proxy.state.rates import Gcra
from proxy.state.topics import Topics

FORGET_NS: Final = 30 * 10**9


class Core:
    """All of a Store's state."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.book = Book(self.changes)
        self.rates = Gcra(self.changes)
        self.duties = Duties(self.changes)
        self.topics = Topics(self.changes)
        self._forgot_ns = 0

    def __repr__(self) -> str:
        return f"<Core {self.book!r}>"

    def tick(self, now_ns: int) -> bool:
        """What time alone changes, to be called every quarter of a second or so; True if old things were dropped."""
        self.book.tick(now_ns)
        self.book.forget_closed(now_ns)
        if now_ns - self._forgot_ns < FORGET_NS:
            return False
        self._forgot_ns = now_ns
        self.book.forget(now_ns)
        self.rates.forget(now_ns)
        return True
