"""Keys of a fleet: what one host makes, rotates or revokes, all hosts that share the Store know within a moment.

Rules:
1. Each host keeps its table in its own `keys.json`, as the leaf that it works from when the Store is away. Tables are
   joined (`proxy.clients.keys.joined`), in any order and as often as one likes: a revocation always wins.
2. A change goes to the topic `keys`; a host's whole table is a blob beside it, for hosts that come later or were away
   for longer than the topic is kept. What was changed while the supervisor or the Store was away is told afterwards.
3. What is heard is in force in the workers before it is in the file. What can't be read is skipped and said.
4. Hashes only. Who may write to the Store may make keys: it is as much to be protected as this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from proxy.clients.keys import KeyFileError, KeyRecord, KeyStore
from proxy.logs import Log
from proxy.state.protocol import StateLost, Store

TOPIC: Final = "keys"
BLOB: Final = "keys/"
KEPT_S: Final = 400 * 86_400.0
AGAIN_S: Final = 1.0
ANEW_S: Final = 86_400.0
_AT_ONCE: Final = 1_000  # records a message or a blob


class Told(msgspec.Struct, frozen=True):
    """A message or a blob: whose it is, and records."""

    host: str
    keys: tuple[KeyRecord, ...]


class SharedKeys:
    """This host's part. `adopt` is given records that others told; `mine` are those in force here."""

    def __init__(
        self,
        store: Store,
        host: str,
        keys: KeyStore,
        adopt: Callable[[Sequence[KeyRecord]], object],
        mine: Callable[[], Sequence[KeyRecord]],
        log: Log,
    ) -> None:
        self.heard = False  # whether the topic is followed now
        self._store = store
        self._host = host
        self._keys = keys
        self._adopt = adopt
        self._mine = mine
        self._log = log
        self._after = ""
        self._told: dict[str, KeyRecord] | None = None
        self._changed = asyncio.Event()
        self._changed.set()

    def changed(self) -> None:
        """Keys were made, rotated or revoked here."""
        self._changed.set()

    async def follow(self) -> None:
        """Hear what others tell, until cancelled."""
        while True:
            try:
                await self._catch_up()
                self.heard = True
                async for position, message in self._store.follow(TOPIC, self._after):
                    self._after = position
                    await self._take(message)
            except StateLost:
                pass
            self.heard = False
            await asyncio.sleep(AGAIN_S)

    async def tell(self) -> None:
        """Tell what changes here, until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), ANEW_S)
            except TimeoutError:
                self._told = {}  # told anew once a day, before it is forgotten
            self._changed.clear()
            try:
                await self._tell()
            except StateLost:
                await asyncio.sleep(AGAIN_S)
                self._changed.set()

    async def _tell(self) -> None:
        if self._told is None:
            self._told = {key.sha256: key for told in await self._blobs(self._host) for key in told.keys}
        mine = list(self._mine())
        new = [key for key in mine if self._told.get(key.sha256) != key]
        if not new:
            return
        for some in _parts(new):
            await self._store.publish(TOPIC, msgspec.json.encode(Told(self._host, some)))
        for number, some in enumerate(_parts(mine)):
            blob = msgspec.json.encode(Told(self._host, some))
            await self._store.put(f"{BLOB}{self._host}/{number}", blob, KEPT_S)
        self._told = {key.sha256: key for key in mine}

    async def _catch_up(self) -> None:
        for told in await self._blobs(""):
            if told.host != self._host:
                await self._take_over(told.keys)

    async def _blobs(self, host: str) -> list[Told]:
        found = []
        for name in await self._store.keys(f"{BLOB}{host}"):
            if (told := self._read(await self._store.get(name))) is not None:
                found.append(told)
        return found

    async def _take(self, message: bytes) -> None:
        told = self._read(message)
        if told is not None and told.host != self._host:
            await self._take_over(told.keys)

    async def _take_over(self, keys: Sequence[KeyRecord]) -> None:
        self._adopt(keys)
        try:
            await asyncio.to_thread(self._keys.adopt, keys)
        except (OSError, KeyFileError) as error:  # in force all the same, as long as this process lives
            self._log.error("keys of other hosts can't be kept", reason=str(error))

    def _read(self, message: bytes | None) -> Told | None:
        if message is None:
            return None
        try:
            return msgspec.json.decode(message, type=Told)
        except msgspec.DecodeError as error:
            self._log.error("keys of other hosts can't be read", reason=str(error))
            return None


def _parts(records: Sequence[KeyRecord]) -> Iterable[tuple[KeyRecord, ...]]:
    return [tuple(records[at : at + _AT_ONCE]) for at in range(0, len(records), _AT_ONCE)]
