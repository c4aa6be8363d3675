"""Policies that stepped back, and the watch over those that may.

Rules:
- Once a second each host judges the traffic of all hosts over the guardrail's window (`proxy.rollout.guardrail`): its
  own workers' as it is now, the others' as they told it last, where they share a Store
  (`proxy.supervisor.fleetwide`).
- A policy that left its band gets the mode that its guardrail names, in all workers, by the way every other change
  takes: a new configuration in which nothing else differs. So a new worker, a reload and `weir why` know it too.
- It is the entry that stepped back, told by its fingerprint: a changed entry begins anew, and the old one, put back, is
  still out. Otherwise only an operator brings it back.
- What stepped back stands in a file of the home directory, so that no restart forgets it; where hosts share a Store,
  also there: of two words about an entry, the later one counts, on every host.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from proxy.admin.operated import SteppedBack
from proxy.config.guardrail import Guardrail
from proxy.config.policies import digest
from proxy.logs import Log
from proxy.rollout.guardrail import Tally, judge
from proxy.state.protocol import StateLost, Store
from proxy.supervisor.fleetwide import Counts, Fleetwide

FILE: Final = "stepped-back.json"
LOOK_S: Final = 1.0
SHARE_S: Final = 5.0
_KEPT_S: Final = 90 * 86400.0
_SAMPLES: Final = 30  # in a window
_TOPIC: Final = "guardrails"

Arms = Mapping[tuple[str, str, str], Tally]


class Guarded(msgspec.Struct, frozen=True):
    """An entry with a guardrail."""

    name: str
    fingerprint: str
    bands: Guardrail

    @property
    def key(self) -> str:
        """What its words are kept under."""
        return f"{self.name}/{self.fingerprint}"


class Word(msgspec.Struct, frozen=True):
    """What was said last of an entry: `mode` is what it stepped back to, `on` where an operator brought it back."""

    at_s: float
    mode: str
    why: dict[str, Any] = {}
    host: str = ""


class Window:
    """The totals of an entry's two arms over some time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[tuple[float, Tally, Tally]] = deque()
        self._anew = False

    def since(self, now_s: float, treated: Tally, control: Tally) -> tuple[Tally, Tally, float]:
        """What the window holds now, and how long it is."""
        samples = self._samples
        if not samples:  # the workers of this supervisor began with nothing
            samples.append((now_s, treated, control) if self._anew else (now_s, Tally(), Tally()))
        while len(samples) > 1 and samples[1][0] <= now_s - self._seconds:
            samples.popleft()
        if now_s - samples[-1][0] >= self._seconds / _SAMPLES:
            samples.append((now_s, treated, control))
        at_s, *before = samples[0]
        return treated.since(before[0]), control.since(before[1]), now_s - at_s

    def restart(self) -> None:
        """Count from the next look on."""
        self._samples.clear()
        self._anew = True


class Stepping:
    """What stepped back here. `enforce` puts it in force: gives the workers the configuration as it is now."""

    def __init__(self, home: Path, host: str, log: Log) -> None:
        self._path = home / FILE
        self._host = host
        self._log = log
        self._words: dict[str, Word] = {}
        self._windows: dict[str, Window] = {}
        self._guarded: tuple[Guarded, ...] = ()
        self._fleet = Fleetwide()
        self._mine: dict[str, Counts] = {}
        self.count = 0  # how often, since the start

    def read(self) -> None:
        """What stood there when the last supervisor ended; a damaged file is none."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self._words = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Word])

    def adopt(self, guarded: tuple[Guarded, ...]) -> None:
        """The entries of the configuration in force."""
        self._guarded = guarded
        keys = {one.key: one for one in guarded}
        self._windows = {key: self._windows.get(key) or Window(one.bands.window) for key, one in keys.items()}

    @property
    def standing(self) -> tuple[SteppedBack, ...]:
        """The entries in force that are out."""
        return tuple(
            SteppedBack(one.name, word.mode, word.at_s, word.why, word.host)
            for one in self._guarded
            if (word := self._words.get(one.key)) is not None and word.mode != "on"
        )

    def applied(self, text: str, guarded: Iterable[Guarded]) -> str:
        """A configuration with the modes of those that stepped back."""
        out = {
            one.name: word.mode
            for one in guarded
            if (word := self._words.get(one.key)) is not None and word.mode != "on"
        }
        if not out:
            return text
        configuration = orjson.loads(text)
        for entry in configuration["policies"]:
            entry["mode"] = out.get(entry["name"], entry["mode"])
        configuration["policy_hash"] = digest([configuration["policy_hash"], sorted(out.items())])
        return orjson.dumps(configuration).decode()

    def look(self, arms: Arms, now_s: float) -> bool:
        """Judge all entries that are on; whether one stepped back."""
        before = self.count
        out = {one.policy for one in self.standing}
        self._mine = {one.key: self._counted(one, arms, now_s) for one in self._guarded if one.name not in out}
        for one in [one for one in self._guarded if one.name not in out]:
            seen = self._fleet.with_others(one.key, self._mine[one.key])
            if (why := judge(one.bands, seen.treated, seen.control, seen.seconds)) is not None:
                self._step(one, why, seen.treated.exchanges)
        return self.count > before

    def _counted(self, one: Guarded, arms: Arms, now_s: float) -> Counts:
        found = [arms.get((one.name, one.fingerprint, arm)) or Tally() for arm in ("treated", "control")]
        treated, control, seconds = self._windows[one.key].since(now_s, found[0], found[1])
        word = self._words.get(one.key)
        return Counts(0.0 if word is None else word.at_s, seconds, treated, control)

    def resume(self, policy: str) -> bool:
        """An operator brings it back; False where it isn't out."""
        found = [
            one for one in self._guarded if one.name == policy and one.name in {out.policy for out in self.standing}
        ]
        for one in found:
            self._windows[one.key].restart()
            self._say(one, Word(time.time(), "on", {}, self._host))
            self._log.warning("policy brought back", policy=policy)
        return bool(found)

    async def share(self, store: Store) -> bool:
        """Tell other hosts what is known here, and hear what they know; whether that changed something."""
        changed = False
        for one in self._guarded:
            key, mine = f"{_TOPIC}/{one.key}", self._words.get(one.key)
            data = await store.get(key)
            theirs = None if data is None else msgspec.json.decode(data, type=Word)
            if theirs is not None and (mine is None or theirs.at_s > mine.at_s):
                self._windows[one.key].restart()
                self._say(one, theirs)
                self._log.warning("policy stepped back elsewhere", policy=one.name, mode=theirs.mode, host=theirs.host)
                changed = True
            elif mine is not None and (theirs is None or mine.at_s > theirs.at_s):
                await store.put(key, msgspec.json.encode(mine), _KEPT_S)
        await self._fleet.exchange(store, self._mine)
        return changed

    async def follow(
        self, arms: Callable[[], Arms], enforce: Callable[[], Awaitable[None]], store: Store | None
    ) -> None:
        """Watch until cancelled. Without a guardrail in the files, nothing is looked at."""
        shared_s = -SHARE_S
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._guarded:
                continue
            now_s = time.monotonic()
            changed = self.look(arms(), now_s)
            if changed:
                await enforce()
            if store is not None and (changed or now_s - shared_s >= SHARE_S):
                shared_s = now_s
                with contextlib.suppress(StateLost, msgspec.MsgspecError):
                    if await self.share(store):
                        await enforce()

    def _step(self, one: Guarded, why: dict[str, Any], exchanges: int) -> None:
        self.count += 1
        self._windows[one.key].restart()
        self._log.error("policy stepped back", policy=one.name, mode=one.bands.then, exchanges=exchanges, **why)
        self._say(one, Word(time.time(), one.bands.then, why, self._host))

    def _say(self, one: Guarded, word: Word) -> None:
        self._words[one.key] = word
        self._mine.pop(one.key, None)
        oldest_s = time.time() - _KEPT_S
        self._words = {key: word for key, word in self._words.items() if word.at_s > oldest_s}
        beside = self._path.with_suffix(".part")
        try:
            beside.write_bytes(msgspec.json.encode(self._words))
            beside.replace(self._path)
        except OSError as error:  # it stays out as long as this process lives
            self._log.error("what stepped back can't be kept", file=str(self._path), error=str(error))
