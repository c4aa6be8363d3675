"""The Store as a worker has it: every call goes to the state process.

How calls travel, and what happens if they don't arrive, is in `proxy.state.calls`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from proxy.state import messages as ask
from proxy.state.calls import Calls, Decode
from proxy.state.protocol import Granted, Hold, Level, Rate, Refused, Scope, Standing, StateLost, Taken


def _decoder(type: Any) -> Decode:
    return msgspec.msgpack.Decoder(type).decode


_RESERVED: Final = _decoder(Granted | Refused | ask.Queued)
_LEVELS: Final = _decoder(tuple[Level, ...])
_STANDING: Final = _decoder(list[Standing])
_TAKEN: Final = _decoder(tuple[Taken, ...])
_BLOB: Final = _decoder(bytes | None)
_KEYS: Final = _decoder(list[str])
_BOOL: Final = _decoder(bool)
_INT: Final = _decoder(int)
_STR: Final = _decoder(str)
_NONE: Final = _decoder(None)


class SocketStore:
    """`proxy.state.protocol.Store` in another process, at the socket `path`. Connects at the first call."""

    def __init__(self, path: Path | str, bound_s: float = 0.25) -> None:
        self._calls = Calls(str(path), bound_s)
        self._number = self._calls.number
        self._call = self._calls.call

    def __repr__(self) -> str:
        return f"<SocketStore {self._calls!r}>"

    # --- holds

    async def reserve(self, hold: Hold, wait_s: float = 0.0) -> Granted | Refused:
        """All parts or none, in turn."""
        number = self._number()
        try:
            answer = await self._call(ask.Reserve(number, hold, round(wait_s * 1e9)), _RESERVED, wait_s)
        except (StateLost, asyncio.CancelledError):
            self._calls.tell(ask.Withdraw(self._number(), number, hold.id))
            raise
        return cast("Granted | Refused", answer)

    async def adjust(
        self, id: str, held: Sequence[int], spent: Sequence[int], until_ns: int, scopes: Sequence[Scope] = ()
    ) -> tuple[Level, ...]:
        """What a hold holds, and has spent in all."""
        request = ask.Adjust(self._number(), id, tuple(held), tuple(spent), until_ns, tuple(scopes))
        return cast("tuple[Level, ...]", await self._call(request, _LEVELS))

    async def close(self, id: str, spent: Sequence[int], scopes: Sequence[Scope] = ()) -> bool:
        """Ends a hold; if the answer is lost, it is sent until there is one."""
        request = ask.Close(self._number(), id, tuple(spent), tuple(scopes))
        return cast(bool, await self._call(request, _BOOL, owed=True))

    async def levels(self, scopes: Sequence[Scope]) -> tuple[Level, ...]:
        """How full scopes are."""
        return cast("tuple[Level, ...]", await self._call(ask.Levels(self._number(), tuple(scopes)), _LEVELS))

    async def standing(self, owner: str = "", overdue_ns: int | None = None) -> list[Standing]:
        """Open holds."""
        request = ask.ListStanding(self._number(), owner, overdue_ns)
        return cast("list[Standing]", await self._call(request, _STANDING))

    # --- rates

    async def take(self, rates: Sequence[Rate]) -> tuple[Taken, ...]:
        """Takes from all rates or none."""
        return cast("tuple[Taken, ...]", await self._call(ask.Take(self._number(), tuple(rates)), _TAKEN))

    async def give(self, rates: Sequence[Rate]) -> None:
        """Gives back."""
        await self._call(ask.Give(self._number(), tuple(rates)), _NONE)

    # --- blobs

    async def get(self, key: str) -> bytes | None:
        """A value."""
        return cast("bytes | None", await self._call(ask.Get(self._number(), key), _BLOB))

    async def put(self, key: str, value: bytes, ttl_s: float, tags: Sequence[str] = ()) -> None:
        """Keeps a value."""
        await self._call(ask.Put(self._number(), key, value, round(ttl_s * 1e9), tuple(tags)), _NONE)

    async def delete(self, keys: Sequence[str]) -> int:
        """Forgets values."""
        return cast(int, await self._call(ask.Delete(self._number(), tuple(keys)), _INT))

    async def delete_tagged(self, tag: str) -> int:
        """Forgets values by tag."""
        return cast(int, await self._call(ask.DeleteTagged(self._number(), tag), _INT))

    async def keys(self, prefix: str, limit: int = 1000) -> list[str]:
        """Keys that begin so."""
        return cast("list[str]", await self._call(ask.Keys(self._number(), prefix, limit), _KEYS))

    # --- claims and feed

    async def claim(self, duty: str, owner: str, ttl_s: float) -> bool:
        """Takes a duty."""
        return cast(bool, await self._call(ask.Claim(self._number(), duty, owner, ttl_s), _BOOL))

    async def resign(self, duty: str, owner: str) -> None:
        """Gives a duty up."""
        await self._call(ask.Resign(self._number(), duty, owner), _NONE)

    async def publish(self, topic: str, message: bytes) -> str:
        """Tells all."""
        return cast(str, await self._call(ask.Publish(self._number(), topic, message), _STR))

    def follow(self, topic: str, after: str | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """Messages, as they come, from this call on or after a position."""
        return self._calls.follow(topic, after)

    # --- all

    async def ping(self) -> int:
        """Its time."""
        return cast(int, await self._call(ask.Ping(self._number()), _INT))

    async def aclose(self) -> None:
        """Sends what is to be sent, and ends the connection."""
        await self._calls.aclose()
