"""What the deployment file leaves to the environment and to other files: keys, paths, defaults, overrides.

Rules: gives data for `DeploymentFile` to check, and never changes what was read. Keys written into the file are
refused and not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from proxy.config.deployment import default_home
from proxy.config.problems import Location
from proxy.config.reading import Reading, absolute
from proxy.config.secret import flaw
from proxy.config.source import Source

VARIABLES = {"WEIR_LISTEN": "listen", "WEIR_OPS": "ops", "WEIR_ADMIN": "admin", "WEIR_WORKERS": "workers"}

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-.*)?\}")
_KEY_HINT = 'set a variable and write key: "${NAME}", or write key: {file: path}'


class Resolving:
    """The deployment file of one run."""

    def __init__(self, reading: Reading, source: Source, base: Path) -> None:
        self.reading = reading
        self.source = source
        self.base = base

    def deployment(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The file's data with keys resolved, paths absolute, defaults and overrides filled in."""
        data = self.source.data if isinstance(self.source.data, dict) else {}
        found = _given(data) | self.chosen(overrides)
        found.setdefault("home", str(default_home(self.reading.env)))
        found |= self.models(found)
        if isinstance(found.get("upstreams"), dict):
            found["upstreams"] = {name: self.upstream(name, value) for name, value in found["upstreams"].items()}
        if isinstance(found.get("tls"), dict):
            found["tls"] = self.with_files(("tls",), found["tls"], ("cert", "key"))
        for name in ("home", "teams"):
            if isinstance(found.get(name), str):
                found[name] = str(absolute(self.base, found[name]))
        return found | self.policies(found)

    def chosen(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """What the command line says, then what the environment says."""
        env = self.reading.env
        said = {name: variable for variable, name in VARIABLES.items() if env.get(variable)}
        self.source.elsewhere |= said | {name: f"--{name}" for name in overrides}
        return {name: env[variable] for name, variable in said.items()} | dict(overrides)

    def models(self, found: dict[str, Any]) -> dict[str, Any]:
        """With one upstream, every model is its."""
        upstreams = found.get("upstreams")
        if "models" in found or not isinstance(upstreams, dict) or not upstreams:
            return {}
        if len(upstreams) == 1:
            return {"models": {"*": {"upstream": next(iter(upstreams))}}}
        message = "is missing: with several upstreams, it says which of them is asked"
        self.source.report(("models",), message, 'write models: {"*": {upstream: name}}')
        return {}

    def policies(self, found: dict[str, Any]) -> dict[str, Any]:
        """Paths of policy files and overlays; what isn't text stays for the check to complain about."""
        return {key: self.listed(found.get(key, [])) for key in ("policies", "overlays")}

    def listed(self, named: Any) -> list[Any]:
        """Paths of a file or a list of them."""
        names = named if isinstance(named, list) else [named]
        return [str(absolute(self.base, name)) if isinstance(name, str) else name for name in names]

    def upstream(self, name: str, value: Any) -> Any:
        """One upstream with its key and paths resolved."""
        if not isinstance(value, dict):
            return value
        found = self.with_files(("upstreams", name), value, ("ca",))
        if "key" in found:
            found["key"] = self.key(("upstreams", name, "key"), found["key"])
        if isinstance(found.get("keys"), list):
            place = ("upstreams", name, "keys")
            found["keys"] = [self.key((*place, index), key) for index, key in enumerate(found["keys"])]
        return found

    def with_files(self, location: Location, value: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """Paths of files that must exist, made absolute and watched."""
        found = _given(value)
        for name in names:
            if isinstance(found.get(name), str):
                path = absolute(self.base, found[name])
                self.reading.existing(path, found[name], self.source, (*location, name))
                found[name] = str(path)
        return found

    def key(self, location: Location, value: Any) -> Any:
        """A key from the environment or from a file, with its value; None where that can't be had."""
        if isinstance(value, dict):
            return self.key_file(location, value)
        reference = _REFERENCE.fullmatch(self.source.raw.get(location, ""))
        if reference is None:
            self.source.report(location, "a key can't be written into the file", _KEY_HINT)
            return None
        name, otherwise = reference.groups()
        if otherwise is not None:
            self.source.report(location, "a key can't have a default in the file", f'write key: "${{{name}}}"')
        elif name in self.reading.env and (wrong := flaw(str(value))):
            self.source.report(location, f"the environment variable {name} {wrong}")
        return {"env": name, "value": str(value)}

    def key_file(self, location: Location, value: dict[str, Any]) -> Any:
        """A key from a file, without the line break at its end."""
        for name in value.keys() - {"file"}:
            self.source.report((*location, name), "unknown key", "write key: {file: path}", at_key=True)
        named = value.get("file")
        if not isinstance(named, str):
            if value.keys() <= {"file"}:
                self.source.report(location, "names no file", "write key: {file: path}")
            return None
        path = absolute(self.base, named)
        secret = self.reading.text(path, named, self.source, (*location, "file"))
        if secret is None:
            return None
        if wrong := flaw(secret):
            self.source.report((*location, "file"), f"the key in {named} {wrong}")
        return {"file": str(path), "value": secret}


def _given(data: dict[str, Any]) -> dict[str, Any]:
    """Without keys that have no value; those are reported elsewhere."""
    return {name: value for name, value in data.items() if value is not None}
