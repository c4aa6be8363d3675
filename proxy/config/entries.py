"""Policy files and their entries: the envelope checked by us, the options by the policy itself.

Rules: every entry is checked on its own, so that one wrong entry hides no other. Options reach the worker as they
were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.config import checks
from proxy.config.findings import note
from proxy.config.neighbours import Placed
from proxy.config.policies import Envelope, PolicyEntry
from proxy.config.problems import Location, suggestion
from proxy.config.reading import Reading, absolute, reason, similar, validated
from proxy.config.registry import PolicyModule, Registry
from proxy.config.scalars import FROM_FILE
from proxy.config.source import Mark, Source
from proxy.config.together import Written

ENVELOPE = frozenset(Envelope.model_fields)


class Files:
    """The files that one entry names, for its module's `resolve`. Names are relative to the policy file."""

    def __init__(self, reading: Reading, source: Source, location: Location) -> None:
        self._reading = reading
        self._source = source
        self._location = location

    def text(self, name: str, at: Location) -> str | None:
        """The text of a file, which is watched from now on; None where it can't be read, which is reported."""
        base = Path(self._source.file_of((*self._location, *at))).parent
        path = absolute(base, name)
        self._reading.watch(path)
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f"can't read {base / name}: {reason(error)}"
            self._source.report((*self._location, *at), message, similar(path))
            return None

    def report(self, name: str, line: int, message: str, hint: str = "") -> None:
        """Note a problem in a line of such a file."""
        shown = str(Path(self._source.file).parent / name)
        self._source.add(shown, Mark(line, 1), (), message, hint)


class Entries:
    """Checks entries against the policies of a registry; `placed` are those without errors, in their order."""

    def __init__(self, registry: Registry, reading: Reading) -> None:
        self.reading = reading
        self.registry = registry
        self.modules: dict[str, PolicyModule] = {}
        self.placed: list[Placed] = []

    def place(self, written: Iterable[Written]) -> None:
        """Check the entries of all files in their order."""
        for one in written:
            entry = self.entry(one.source, one.number, one.value, one.zone)
            if entry is not None:
                self.placed.append(Placed(entry, one.source, ("policies", one.number)))

    def entry(self, source: Source, index: int, value: Any, zone: str) -> PolicyEntry | None:
        """One entry, or None where it has errors."""
        location: Location = ("policies", index)
        if not isinstance(value, dict):
            hint = f"write use: {value}" if isinstance(value, str) else ""
            source.report(location, "expected a mapping that begins with use: name", hint)
            return None
        before = len(source.problems)
        checks.empty_values(source, location, ENVELOPE)
        envelope = _given({name: inner for name, inner in value.items() if name in ENVELOPE})
        options = {name: inner for name, inner in value.items() if name not in ENVELOPE}
        self.options(source, location, value.get("use"), options)
        options = self.resolved(source, location, value.get("use"), options)
        checked = validated(Envelope, source, envelope, location)
        if checked is not None and checked.guardrail is not None:
            self.guardrail(source, location, checked)
        if checked is None or len(source.problems) > before:
            return None
        return PolicyEntry(
            **{name: getattr(checked, name) for name in ENVELOPE - {"name"}},
            name=checked.name or checked.use,
            options=options,
            source=f"{source.file}:{source.values[location].line}",
            time_zone=zone,
        )

    def guardrail(self, source: Source, location: Location, checked: Envelope) -> None:
        """A guardrail that could do harm, or that nothing could be compared by."""
        where, guardrail = (*location, "guardrail"), checked.guardrail
        assert guardrail is not None
        if getattr(self.modules.get(checked.use), "ESSENTIAL", False):
            source.report(where, f"{checked.use} can't step back: without it, what must hold wouldn't", at_key=True)
        if guardrail.compares and checked.rollout == 1 and not checked.holdout:
            hint = "give it a rollout below 100%, or a holdout"
            source.report((*where, "over_control"), "there is no control group", hint, at_key=True)

    def options(self, source: Source, location: Location, use: Any, options: Mapping[str, Any]) -> None:
        """Check the policy's own keys."""
        module = self.module(source, location, use) if isinstance(use, str) else None
        if module is None:
            return
        config = module.Config
        try:
            config.model_validate(dict(options), context=FROM_FILE)
        except ValidationError as error:
            note(error, source, config, location, also=ENVELOPE)
        if config.model_config.get("extra") in (None, "ignore"):  # a misspelt option must never be passed over
            known = set(config.model_fields)
            known |= {field.alias for field in config.model_fields.values() if field.alias}
            for name in options.keys() - known:
                source.report((*location, name), "unknown key", suggestion(name, known | ENVELOPE), at_key=True)

    def resolved(self, source: Source, location: Location, use: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options with what the files say that they name, where the policy has such."""
        resolve = getattr(self.modules.get(use), "resolve", None) if isinstance(use, str) else None
        return options if resolve is None else resolve(options, Files(self.reading, source, location))

    def module(self, source: Source, location: Location, use: str) -> PolicyModule | None:
        """The policy's module, imported once."""
        if use not in self.registry:
            source.report((*location, "use"), f"there is no policy {use!r}", suggestion(use, self.registry))
            return None
        if use not in self.modules:
            try:
                module = self.registry[use]()
            except Exception as error:  # a plug-in may fail in any way; the file shows which one did
                message = f"the policy {use} can't be loaded: {type(error).__name__}: {error}"
                source.report((*location, "use"), message)
                return None
            if clash := _clash(module):
                source.report((*location, "use"), f"the policy {use} can't be used: {clash}")
                return None
            self.modules[use] = module
        return self.modules[use]


def _clash(module: PolicyModule) -> str:
    """What a policy's author must put right."""
    if not hasattr(module, "Config") or not hasattr(module, "build"):
        return "it needs Config and build(config, services)"
    taken = sorted(ENVELOPE & module.Config.model_fields.keys())
    return f"its options {', '.join(taken)} are names of the envelope" if taken else ""


def _given(data: Any) -> Any:
    return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data
