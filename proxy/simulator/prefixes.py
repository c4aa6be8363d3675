"""The prompt cache: which prefixes of at least 1,024 tokens a key has sent to a model before."""

from __future__ import annotations

_MOST = 200_000


class PromptCache:
    """Prefixes by hash; forgets all of them when it holds too many."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str, bytes]] = set()

    def cached(self, key: str, model: str, marks: list[tuple[int, bytes]]) -> int:
        """Tokens of the longest prefix of `marks` (ascending) that was seen before; remembers all of them."""
        if not marks:
            return 0
        hit = 0
        for tokens, digest in reversed(marks):
            if (key, model, digest) in self._seen:
                hit = tokens
                break
        if len(self._seen) > _MOST:
            self._seen.clear()
        self._seen.update((key, model, digest) for tokens, digest in marks if tokens > hit)
        return hit

    def clear(self) -> None:
        self._seen.clear()
