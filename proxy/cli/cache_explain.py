"""`weir cache explain`: what the semantic cache would make of a request, asked without sending it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.explain import (
    CHAT,
    DataOption,
    EndpointOption,
    HeaderOption,
    KeyOption,
    body_of,
    headers_of,
    identity,
    loaded,
)
from proxy.cli.home import ConfigOption, HomeOption
from proxy.cli.output import CommandError, JsonOption, UsageError, paint

if TYPE_CHECKING:
    from proxy.config import Configuration


def explain(
    data: DataOption,
    key: KeyOption = None,
    endpoint: EndpointOption = CHAT,
    header: HeaderOption = None,
    policy: Annotated[str | None, typer.Option(help="The policy's name, where several are caches.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    home: HomeOption = None,
) -> None:
    """Show what the semantic cache makes of a request. Neighbours, score, features, decision."""
    import msgspec

    from proxy.admin.client import AdminClient, AdminError
    from proxy.errors import WeirError

    configuration = loaded(config, home)
    name, options = _policy(configuration, policy)
    headers, raw = headers_of(header or ()), body_of(data)
    try:
        who, headers = identity(configuration, key, headers)
        found = AdminClient(configuration.deployment.home).operate(
            "cache",
            "explain",
            policy=name,
            options=options,
            identity=msgspec.to_builtins(who),
            path=endpoint,
            headers=[(each.decode("latin-1"), value.decode("latin-1")) for each, value in headers],
            body=raw.decode("utf-8", "replace"),
        )
    except (WeirError, AdminError) as error:
        raise CommandError(str(getattr(error, "message", error))) from None
    print(json.dumps(found) if as_json else "\n".join(lines(found)))


def _policy(configuration: Configuration, name: str | None) -> tuple[str, dict[str, Any]]:
    """The cache that is meant: the only one with a semantic tier, or the named one."""
    entries = [entry for entry in configuration.policies if entry.use == "cache" and entry.options.get("semantic")]
    entries = [entry for entry in entries if name in (None, entry.name)]
    if not entries:
        raise CommandError("no policy here is a cache with `semantic`")
    if len(entries) > 1:
        raise UsageError(f"name one by --policy: {', '.join(entry.name for entry in entries)}")
    return entries[0].name, dict(entries[0].options)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for people."""
    yield paint(f"{found['decision']}: {found['why']}", "bold")
    if "entries" not in found:
        return
    threshold = "none" if found["threshold"] is None else f"{found['threshold']:.4f}"
    score = f"score {found['score']:.4f}, " if "score" in found else ""
    bound = f"{found['status']} at {100 * found['max_error']:g} % by {found['labels']} labels"
    yield f"{score}threshold {threshold}, {bound}"
    rate, least, most = found["audited_error"]
    yield f"audited error of recent hits {100 * rate:.1f} %, between {100 * least:.1f} and {100 * most:.1f} %"
    yield f"partition {found['partition']}, {found['entries']} entries"
    for one in found.get("neighbours", ()):
        mark = "*" if one["candidate"] else " "
        text = " ".join(one["text"].split())[:80]
        yield f" {mark} {one['similarity']:.3f}  {one['answer'][:8]}  {one['entry']}  {text}"
    for name, feature in found.get("features", {}).items():
        yield f"   {name:<16} {feature['value']:>8.3f}  {feature['adds']:>+8.2f}"
