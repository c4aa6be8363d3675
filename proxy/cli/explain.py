"""`weir explain`: what a request would meet, asked without sending it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.home import ConfigOption, HomeOption, file_of
from proxy.cli.output import CommandError, JsonOption, UsageError, dollars, paint

if TYPE_CHECKING:
    from proxy.config import Configuration
    from proxy.exchange import Identity, Request
    from proxy.wire.headers import Headers

CHAT = "/v1/chat/completions"
DataOption = Annotated[str, typer.Option("--data", "-d", metavar="BODY", help="JSON body; @FILE or @- reads it.")]
KeyOption = Annotated[str | None, typer.Option(help="The client's key, or the id of one made or declared here.")]
EndpointOption = Annotated[str, typer.Option(metavar="PATH", help="Path of the request.")]
HeaderOption = Annotated[
    list[str] | None, typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header; repeatable.")
]

_STYLES = {"applies": "green", "observes": "yellow"}


def explain(
    data: DataOption,
    key: KeyOption = None,
    endpoint: EndpointOption = CHAT,
    header: HeaderOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    home: HomeOption = None,
) -> None:
    """Name what a request would meet. Every policy with file:line and why, where it would go, its cost at most."""
    from proxy.errors import WeirError
    from proxy.explain import asked

    configuration = loaded(config, home)
    headers, raw = headers_of(header or ()), body_of(data)
    try:
        who, headers = identity(configuration, key, headers)
        found = answer(configuration, asked(configuration, who, endpoint, headers, raw))
    except WeirError as error:
        raise CommandError(f"the request is refused with {error.status}: {error.message}") from None
    print(json.dumps(found) if as_json else "\n".join(lines(found)))


def headers_of(given: Sequence[str]) -> Headers:
    """`["x-weir-tags: env=prod"]` as headers on the wire."""
    pairs = [text.partition(":") for text in given]
    for name, colon, _ in pairs:
        if not name.strip() or not colon:
            raise UsageError(f"--header {name}: a header is NAME: VALUE")
    return [(name.strip().lower().encode(), value.strip().encode()) for name, _, value in pairs]


def body_of(data: str) -> bytes:
    """The bytes of `--data`: as given, or of a file or standard input behind an @."""
    if not data.startswith("@"):
        return data.encode()
    return sys.stdin.buffer.read() if data == "@-" else Path(data[1:]).read_bytes()


def identity(configuration: Configuration, key: str | None, headers: Headers) -> tuple[Identity, Headers]:
    """Who would ask, found as a worker finds it; and the headers with the key. Raises the worker's `WeirError`."""
    import msgspec

    from proxy.clients.identity import Keys, Open
    from proxy.clients.keys import KeyStore, digest
    from proxy.supervisor.keyring import merged
    from proxy.supervisor.plan import plan_of

    shown = key or ""
    if configuration.deployment.keys != "required":
        headers = [*headers, (b"authorization", b"Bearer " + shown.encode())] if key else headers
        return Open().identify(headers), headers
    plan, made = plan_of(configuration), KeyStore(configuration.deployment.home).list()
    records = [key for key in merged(plan.declared_keys, made, plan.inherit) if key.role is None]
    named = next((record for record in records if record.id == key), None)
    if named is not None:  # an id opens nothing: it stands for its key in this one look-up only
        records = [msgspec.structs.replace(named, sha256=digest(shown))]
    headers = [*headers, (b"authorization", b"Bearer " + shown.encode())] if key else headers
    return Keys(records).identify(headers), headers


def answer(configuration: Configuration, request: Request) -> dict[str, Any]:
    """All that is known, as JSON would hold it."""
    from proxy.explain import met, route, worst_case
    from proxy.matching import Matchable
    from proxy.pricing import RateCards

    who, exchange = request.exchange.identity, request.exchange
    cards = RateCards.compile(overrides=configuration.deployment.prices)
    found = route(configuration, request.model)
    seen = Matchable(request)
    return {
        "endpoint": request.endpoint.name,
        "model": request.model,
        "bytes": seen.size_bytes,
        "stream": seen.stream,
        "key": who.key,
        "org": who.org,
        "team": who.team,
        "project": who.project,
        "tags": exchange.tags,
        "layers": [asdict(layer) for layer in met(configuration, request)],
        "route": None if found is None else asdict(found),
        "worst_case": [asdict(worst_case(configuration, cards, request, target)) for target in found.targets]
        if found
        else [],
        "policy_hash": configuration.policy_hash,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people: who, each layer, each deployment."""
    who = " ".join(f"{name} {found[name]}" for name in ("key", "org", "team", "project") if found[name])
    tags = " ".join(f"{name}={value}" for name, value in found["tags"].items())
    stream = ", streamed" if found["stream"] else ""
    head = f"{found['endpoint']}  {found['model'] or 'no model'}  {found['bytes']:,} bytes{stream}"
    return [
        paint(head, "bold"),
        f"asked by {who or 'anyone'}{f'  tags {tags}' if tags else ''}",
        *([_layer(layer) for layer in found["layers"]] or ["  no policies"]),
        *(
            _targets(found["route"], found["worst_case"])
            if found["route"]
            else ["  no deployment offers this model: 404"]
        ),
    ]


def _layer(layer: dict[str, Any]) -> str:
    name = layer["name"] if layer["name"] == layer["use"] else f"{layer['name']} ({layer['use']})"
    verdict = paint(f"{layer['verdict']:<15}", _STYLES.get(layer["verdict"], "dim"))
    said = f"  → {layer['foretold']}" if layer["foretold"] else ""
    return f"  {name:<20} {verdict} {layer['source']:<28} {layer['reason']}{said}"


def _targets(route: dict[str, Any], costs: Sequence[dict[str, Any]]) -> list[str]:
    several = f" one of {len(costs)} deployments, {route['balance']}:" if len(costs) > 1 else ""
    head = f"would go by models.{route['pattern']} to{several}"
    return [head, *(_target(target, cost) for target, cost in zip(route["targets"], costs, strict=True))]


def _target(target: dict[str, Any], cost: dict[str, Any]) -> str:
    share = f"{100 * target['share']:.3g}%"
    choices = f" × {cost['choices']} choices" if cost["choices"] > 1 else ""
    cap = "no cap on output" if cost["output_cap"] is None else f"{cost['output_cap']:,} out{choices}"
    at_most = "at most" if cost["output_cap"] is not None else "input alone"
    price = dollars(cost["nanodollars"])
    said = price if cost["nanodollars"] is None else f"{at_most} {price}"
    return f"  {target['upstream']:<20} {share:<6} {target['model']}  {said}  ({cost['input_tokens']:,} in, {cap})"


def loaded(config: Path | None, home: Path | None) -> Configuration:
    """The configuration that a command means."""
    from proxy.cli.problems import BadFilesError
    from proxy.config import ConfigurationError
    from proxy.config.loading import load

    overrides = {} if home is None else {"home": str(home.absolute())}
    try:
        return load(file_of(config), os.environ, overrides=overrides)
    except ConfigurationError as error:
        raise BadFilesError(error) from None
