"""Loads the files: reads, checks, resolves; all problems of all files at once.

Rules: only the supervisor and the command line come here. The order is: deployment file, teams file, policy files, then
what only shows in all of them together (`proxy.config.checks`). A file with errors doesn't hide those of the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proxy.config import checks
from proxy.config.configuration import Configuration
from proxy.config.deployment import DeploymentFile, default_home
from proxy.config.files import with_links
from proxy.config.findings import note
from proxy.config.policies import Envelope, Honour, PolicyEntry, PolicyFile, digest
from proxy.config.problems import ConfigurationError, Location, Problem, nearest, suggestion, written
from proxy.config.registry import PolicyModule, Registry, installed
from proxy.config.secret import flaw
from proxy.config.source import Source, read
from proxy.config.teams import TeamsFile

OPENAI = "https://api.openai.com/v1"
ENVELOPE = frozenset(Envelope.model_fields)
_FROM_ENVIRONMENT = {"WEIR_LISTEN": "listen", "WEIR_OPS": "ops", "WEIR_ADMIN": "admin", "WEIR_WORKERS": "workers"}
_KEY_HINT = 'set a variable and write key: "${NAME}", or write key: {file: path}'


def find(env: Mapping[str, str], directory: Path | None = None) -> Path | None:
    """The deployment file where none was named: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml; None if there is
    none."""
    if named := env.get("WEIR_CONFIG"):
        return Path(named)
    candidates = [(directory or Path()) / "weir.yaml", Path("/etc/weir/weir.yaml")]
    return next((path for path in candidates if path.is_file()), None)


def load(
    path: Path | str | None,
    env: Mapping[str, str] | None = None,
    *,
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Configuration:
    """The configuration of a deployment file, or the default one without a file.

    `overrides` replace top-level settings and win over $WEIR_LISTEN, $WEIR_OPS, $WEIR_ADMIN and $WEIR_WORKERS, which
    win over the file. Raises `ConfigurationError` with every problem of every file.
    """
    env = os.environ if env is None else env
    if path is None:
        return default_configuration(env, registry=registry, overrides=overrides)
    loading = _Loading(env, registry, overrides or {})
    return loading.finish(loading.file(Path(path), str(path)), str(path))


def default_configuration(
    env: Mapping[str, str] | None = None,
    upstream_url: str | None = None,
    demo_url: str | None = None,
    *,
    registry: Registry | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Configuration:
    """Without a file: everything goes to `demo_url`, else `upstream_url`, else $UPSTREAM, else OpenAI.

    The client's own key passes through, unless $UPSTREAM_API_KEY is set.
    """
    env = os.environ if env is None else env
    url = demo_url or upstream_url or env.get("UPSTREAM") or OPENAI
    name = "demo" if demo_url else "openai" if url == OPENAI else "upstream"
    upstream = {"url": url}
    source = Source("(no file)", data={"version": 1, "upstreams": {name: upstream}})
    if env.get("UPSTREAM_API_KEY") and not demo_url:
        upstream["key"] = env["UPSTREAM_API_KEY"]
        source.raw["upstreams", name, "key"] = "${UPSTREAM_API_KEY}"
    loading = _Loading(env, registry, overrides or {})
    loading.sources.append(source)
    return loading.finish(source, None)


class _Loading:
    """One run: the files read so far, and what was found in them."""

    def __init__(self, env: Mapping[str, str], registry: Registry | None, overrides: Mapping[str, Any]) -> None:
        self.env = env
        self.registry = installed() if registry is None else registry
        self.overrides = overrides
        self.sources: list[Source] = []
        self.watched: dict[Path, None] = {}
        self.modules: dict[str, PolicyModule] = {}

    # Reading

    def file(self, path: Path, shown: str, asked_by: tuple[Source, Location] | None = None) -> Source:
        """Read one file; where it can't be, the problem stands where the file was named."""
        self.watch(path)
        try:
            source = read(shown, path.read_bytes(), self.env)
        except OSError as error:
            source = Source(shown)
            place, location = asked_by or (source, ())
            place.report(location, f"can't read {shown}: {_reason(error)}", _similar(path))
        self.sources.append(source)
        return source

    def watch(self, path: Path) -> None:
        self.watched.update(dict.fromkeys(with_links(path)))

    # Deployment

    def finish(self, source: Source, file: str | None) -> Configuration:
        base = Path(file).parent if file else Path()
        data = source.data if isinstance(source.data, dict) else {}
        checks.empty_values(source)
        prepared = self.prepared(source, data, base)
        teams = self.teams(source, data, base)
        entries, honour, zone = self.policies(source, data, base)
        prepared["keys"] = checks.key_mode(source, prepared, teams, self.env)
        deployment = self.validated(DeploymentFile, source, prepared) if source.data is not None else None
        checks.deployment(source, data, deployment)
        checks.chain(self.sources, entries, self.modules, data, teams, honour)
        self.raise_errors()
        assert deployment is not None
        return self.resolved(deployment, entries, honour, zone, teams, file)

    def prepared(self, source: Source, data: dict[str, Any], base: Path) -> dict[str, Any]:
        """The deployment file's data with keys resolved, paths absolute, defaults and overrides filled in."""
        prepared = {name: value for name, value in data.items() if value is not None}
        prepared.setdefault("home", str(default_home(self.env)))
        for variable, name in _FROM_ENVIRONMENT.items():
            if self.env.get(variable):
                prepared[name] = self.env[variable]
        prepared.update(self.overrides)
        self.default_models(source, prepared)
        if isinstance(prepared.get("upstreams"), dict):
            prepared["upstreams"] = {
                name: self.upstream(source, name, value, base) for name, value in prepared["upstreams"].items()
            }
        for name in ("home", "teams"):
            if isinstance(prepared.get(name), str):
                prepared[name] = str(_absolute(base, prepared[name]))
        if isinstance(prepared.get("tls"), dict):
            prepared["tls"] = self.with_files(source, ("tls",), prepared["tls"], ("cert", "key"), base)
        prepared.update(self.policy_paths(prepared, base))
        return prepared

    def policy_paths(self, prepared: dict[str, Any], base: Path) -> dict[str, Any]:
        named = prepared.get("policies")
        names = named if isinstance(named, list) else [named] if isinstance(named, str) else []
        return (
            {"policies": [str(_absolute(base, name)) if isinstance(name, str) else name for name in names]}
            if names
            else {}
        )

    def default_models(self, source: Source, prepared: dict[str, Any]) -> None:
        """With one upstream, every model is its."""
        upstreams = prepared.get("upstreams")
        if prepared.get("models") or not isinstance(upstreams, dict):
            return
        if len(upstreams) == 1:
            prepared["models"] = {"*": {"upstream": next(iter(upstreams))}}
        elif ("models",) not in source.keys and upstreams:
            source.report(
                ("models",),
                "is missing: with several upstreams, models say which is asked",
                'write models: {"*": {upstream: name}}',
            )

    def upstream(self, source: Source, name: str, value: Any, base: Path) -> Any:
        if not isinstance(value, dict):
            return value
        prepared = self.with_files(source, ("upstreams", name), value, ("ca",), base)
        if value.get("key") is not None:
            prepared["key"] = self.key(source, ("upstreams", name, "key"), value["key"], base)
        return prepared

    def with_files(
        self, source: Source, location: Location, value: dict[str, Any], names: Iterable[str], base: Path
    ) -> dict[str, Any]:
        """Paths of files that must exist, made absolute and watched."""
        prepared = {name: inner for name, inner in value.items() if inner is not None}
        for name in names:
            if isinstance(prepared.get(name), str):
                path = _absolute(base, prepared[name])
                prepared[name] = str(path)
                self.watch(path)
                if not path.is_file():
                    source.report((*location, name), f"there is no file {value[name]}", _similar(path))
        return prepared

    def key(self, source: Source, location: Location, value: Any, base: Path) -> Any:
        """A key from the environment or from a file, resolved; a literal is an error and is not repeated."""
        if isinstance(value, dict):
            return self.key_file(source, location, value, base)
        raw = source.raw.get(location, "")
        if not (raw.startswith("${") and raw.endswith("}") and raw.count("${") == 1):
            source.report(location, "a key can't be written into the file", _KEY_HINT)
            return None
        name = raw[2:-1].partition(":")[0]
        if ":-" in raw:
            source.report(location, "a key can't have a default in the file", f'write "${{{name}}}"')
        if name in self.env and (wrong := flaw(str(value))):
            source.report(location, f"the environment variable {name} {wrong}")
        return {"env": name, "value": str(value)} if value else None

    def key_file(self, source: Source, location: Location, value: dict[str, Any], base: Path) -> Any:
        for name in value.keys() - {"file"}:
            source.report((*location, name), "unknown key", "write key: {file: path}", at_key=True)
        if not isinstance(value.get("file"), str):
            source.report(location, "names no file", "write key: {file: path}")
            return None
        path = _absolute(base, value["file"])
        self.watch(path)
        try:
            secret = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            source.report((*location, "file"), f"can't read {value['file']}: {_reason(error)}", _similar(path))
            return None
        if wrong := flaw(secret):
            source.report((*location, "file"), f"the key in {value['file']} {wrong}")
        return {"file": str(path), "value": secret}

    # Teams and policies

    def teams(self, deployment: Source, data: dict[str, Any], base: Path) -> TeamsFile | None:
        named = data.get("teams")
        if not isinstance(named, str):
            return None
        source = self.file(_absolute(base, named), _beside(base, named), (deployment, ("teams",)))
        checks.empty_values(source)
        if source.data is None:
            return None
        teams: TeamsFile | None = self.validated(TeamsFile, source, source.data)
        if teams is not None:
            checks.teams(source, teams)
        return teams

    def policies(self, deployment: Source, data: dict[str, Any], base: Path) -> tuple[list[PolicyEntry], Honour, str]:
        named = data.get("policies")
        single = not isinstance(named, list)
        names: Sequence[Any] = [named] if single else named or ()
        entries: list[PolicyEntry] = []
        honours: list[Honour] = []
        zones: list[str] = []
        for index, name in enumerate(names):
            if not isinstance(name, str):
                continue
            location: Location = ("policies",) if single else ("policies", index)
            source = self.file(_absolute(base, name), _beside(base, name), (deployment, location))
            found = self.policy_file(source)
            if found is not None:
                entries += found.policies
                zones.append(found.time_zone)
                honours += [found.honour] if found.honour else []
        if any(honour != honours[0] for honour in honours):
            self.sources[-1].report(
                ("honour",), "differs between the policy files", "say it in one of them", at_key=True
            )
        return entries, honours[0] if honours else Honour(), zones[0] if zones else "UTC"

    def policy_file(self, source: Source) -> PolicyFile | None:
        """The file without the entries that have errors; those are noted."""
        if source.data is None:
            return None
        if not isinstance(source.data, dict):
            self.validated(PolicyFile, source, source.data)
            return None
        listed = source.data.get("policies")
        rest = {**source.data, "policies": []} if isinstance(listed, list) else source.data
        head = self.validated(PolicyFile, source, rest)
        zone = head.time_zone if head else "UTC"
        entries = [
            self.entry(source, index, value, zone)
            for index, value in enumerate(listed if isinstance(listed, list) else [])
        ]
        kept = tuple(entry for entry in entries if entry is not None)
        return PolicyFile(version=1, time_zone=zone, honour=head.honour if head else None, policies=kept)

    def entry(self, source: Source, index: int, value: Any, zone: str) -> PolicyEntry | None:
        location: Location = ("policies", index)
        if not isinstance(value, dict):
            hint = f"write use: {value}" if isinstance(value, str) else ""
            source.report(location, "expected a mapping that begins with use: name", hint)
            return None
        checks.empty_values(source, location, ENVELOPE)
        envelope = {name: inner for name, inner in value.items() if name in ENVELOPE and inner is not None}
        options = {name: inner for name, inner in value.items() if name not in ENVELOPE}
        before = len(source.problems)
        module = self.module(source, location, value.get("use"))
        if module is not None:
            self.check_options(source, location, module, options)
        checked = self.validated(Envelope, source, envelope, location)
        if checked is None or len(source.problems) > before:
            return None
        line = source.values[location].line
        return PolicyEntry.model_validate(
            {
                **{name: getattr(checked, name) for name in ENVELOPE},
                "name": checked.name or checked.use,
                "options": options,
                "source": f"{source.file}:{line}",
                "time_zone": zone,
            }
        )

    def module(self, source: Source, location: Location, use: Any) -> PolicyModule | None:
        if not isinstance(use, str):
            return None
        if use not in self.registry:
            source.report((*location, "use"), f"there is no policy {use!r}", suggestion(use, self.registry))
            return None
        if use not in self.modules:
            try:
                self.modules[use] = self.registry[use]()
            except Exception as error:  # a plug-in may fail in any way; the file shows which one did
                source.report((*location, "use"), f"the policy {use} can't be loaded: {type(error).__name__}: {error}")
                return None
        return self.modules[use]

    def check_options(self, source: Source, location: Location, module: PolicyModule, options: dict[str, Any]) -> None:
        config = module.Config
        try:
            config.model_validate(options)
        except ValidationError as error:
            note(error, source, config, location, also=ENVELOPE)
        if config.model_config.get("extra") in (None, "ignore"):  # a misspelt option must never be passed over
            known = {field.alias or name for name, field in config.model_fields.items()}
            for name in options.keys() - known - set(config.model_fields):
                source.report((*location, name), "unknown key", suggestion(name, {*known, *ENVELOPE}), at_key=True)

    # Results

    def validated(self, model: Any, source: Source, data: Any, location: Location = ()) -> Any:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            note(error, source, model, location)
            return None

    def raise_errors(self) -> None:
        problems = self.problems()
        if any(problem.severity == "error" for problem in problems):
            raise ConfigurationError(problems, tuple(self.watched))

    def problems(self) -> list[Problem]:
        found: dict[Problem, None] = {}
        for source in self.sources:
            found.update(dict.fromkeys(sorted(source.problems, key=lambda problem: (problem.line, problem.column))))
        return list(found)

    def resolved(
        self,
        deployment: DeploymentFile,
        entries: list[PolicyEntry],
        honour: Honour,
        zone: str,
        teams: TeamsFile | None,
        file: str | None,
    ) -> Configuration:
        acted_on = [
            deployment.model_dump(mode="json"),
            [entry.model_dump(mode="json") for entry in entries],
            honour.model_dump(mode="json"),
            zone,
            teams.model_dump(mode="json") if teams else None,
        ]
        return Configuration(
            deployment=deployment,
            policies=tuple(entries),
            honour=honour,
            time_zone=zone,
            teams=teams,
            file=file,
            hash=digest(acted_on),
            policy_hash=digest(acted_on[1:3]),
            watched=tuple(self.watched),
            warnings=tuple(self.problems()),
            references=self.references(),
        )

    def references(self) -> dict[str, str]:
        """Where the resolved configuration holds text from the environment, and how it was written."""
        found: dict[str, str] = {}
        offset = 0
        for index, source in enumerate(self.sources):
            listed = source.data.get("policies") if isinstance(source.data, dict) else None
            for location, raw in source.raw.items():
                found["\0".join(map(str, _resolved_location(location, index == 0, offset)))] = raw
            offset += len(listed) if index and isinstance(listed, list) else 0
        return found


def _resolved_location(location: Location, deployment: bool, offset: int) -> Location:
    if deployment:
        return ("deployment", *location)
    if location[0] == "policies" and len(location) > 2:
        _, index, name, *rest = location
        inner: Location = (name, *rest) if name in ENVELOPE else ("options", name, *rest)
        return ("policies", int(index) + offset, *inner)
    return ("teams", *location)


def _absolute(base: Path, name: str) -> Path:
    return Path(os.path.normpath(Path.cwd() / base / Path(name).expanduser()))


def _beside(base: Path, name: str) -> str:
    """How a file that another one names is shown: from where the reader stands."""
    return str(base / name)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return "it isn't UTF-8 text"


def _similar(path: Path) -> str:
    """A file beside it that was probably meant."""
    try:
        names = [other.name for other in path.parent.iterdir()]
    except OSError:
        return ""
    close = nearest(path.name, names)
    return f"did you mean {close}?" if close and close != path.name else ""


__all__ = ["default_configuration", "find", "load", "written"]
