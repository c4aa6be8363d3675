"""The page `docs/reference/configuration.md`, made from the models (`proxy.reference` writes it).

Rules: pure text. Whatever is said about a setting stands under its field and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from proxy.config.resolving import VARIABLES
from proxy.config.schemas import schema

_FILES = (
    ("deployment", "Deployment file"),
    ("policies", "Policy file"),
    ("overlay", "Overlay file"),
    ("teams", "Teams file"),
)

_BEGINNING = """# Configuration

<!-- Written by `python -m proxy.reference`; change the docstrings of `proxy/config/`, then run it again. -->

YAML files, of which only the first is needed: the deployment file says where things are, the policy files say
what is allowed and preferred, the teams file says who is who. `weir check` reports every error of all of them at once.
Editors check them while you type with `weir schema deployment` and `weir schema policies`.

Without any file, everything goes to `$UPSTREAM` (else to OpenAI), with the client's own key or `$UPSTREAM_API_KEY`.

## Values

| kind | written as |
|---|---|
| duration | `500ms`, `10s`, `5m`, `24h`, `30d`, `1h30m`, or a number of seconds |
| size | `512 B`, `256 KiB`, `32 MiB`, `1.5 GB`, or a number of bytes |
| percentage | `5%`, `0.5%` |
| address | `127.0.0.1:8787`, `[::1]:8787`, `:8787` for every interface, or a port of 127.0.0.1 |
| pattern | a name, or one with `*`, `?`, `[a-z]`; letter case counts |

- YAML 1.2: only `true` and `false` are booleans, and `22:00` is text. An unknown key, a key written twice, and a key
  without a value are errors.
- `${NAME}` in a value is replaced from the environment; `${NAME:-otherwise}` has a default; `$${` is a literal `${`.
  Within braces put it in quotes: `{key: "${NAME}"}`.
- Keys of upstreams and passwords come from the environment or from a file, never from the text of these files.
- Paths are relative to the file that names them. All files are watched, links on the way to them included.
"""


def reference() -> str:
    """The whole page."""
    parts = [_BEGINNING, _variables()]
    for kind, title in _FILES:
        parts.append("\n".join(_file(kind, title)))
    return "\n".join(parts).rstrip() + "\n"


def _variables() -> str:
    lines = [f"| `{variable}` | `{name}` of the deployment file |" for variable, name in VARIABLES.items()]
    lines += ["| `WEIR_CONFIG` | the deployment file; otherwise ./weir.yaml, then /etc/weir/weir.yaml |"]
    lines += ["| `WEIR_HOME` | `home` of the deployment file, where that is left out |"]
    lines += ["| `WEIR_CONTAINER` | `1`: a public address without keys requires them instead of being refused |"]
    return "\n".join(["## Environment\n", "| variable | replaces |", "|---|---|", *lines, ""])


def _file(kind: Any, title: str) -> Iterator[str]:
    found = schema(kind, {})
    yield f"## {title}\n"
    if kind == "policies":
        found["properties"]["policies"] = {
            "type": "array",
            "items": {"$ref": "#/$defs/Envelope"},
            "description": found["properties"]["policies"]["description"],
        }
        found["$defs"]["Envelope"] = _envelope()
    yield from table(found)
    for name, model in sorted(found.get("$defs", {}).items(), key=lambda item: item[0] != "Envelope"):
        if "properties" in model:
            yield f"### {title}: {name}\n"
            yield from table(model)


def _envelope() -> dict[str, Any]:
    from proxy.config.policies import Envelope
    from proxy.config.schemas import of_model

    found = of_model(Envelope)
    found["description"] += " A policy's own options stand beside these keys."
    return found


def table(model: dict[str, Any]) -> Iterator[str]:
    """What a model of a JSON Schema says of itself and of its keys."""
    yield f"{_flat(model.get('description', ''))}\n"
    yield "| key | kind | default | meaning |"
    yield "|---|---|---|---|"
    required = model.get("required", [])
    for name, node in model["properties"].items():
        default = "needed" if name in required else _default(node)
        yield f"| `{name}` | {_kind(node)} | {default} | {_flat(node.get('description', ''))} |"
    yield ""


def _default(node: dict[str, Any]) -> str:
    value = node.get("default")
    if value in (None, [], "") or isinstance(value, dict):  # a mapping's defaults stand in its own table
        return ""
    if isinstance(value, str):
        return f"`{value}`"
    if node.get("title") == "size":
        return f"`{_size(value)}`"
    if node.get("title") == "duration":
        return f"`{_duration(value)}`"
    return f"`{json.dumps(value)}`"


def _size(count: int) -> str:
    for factor, unit in ((2**20, "MiB"), (2**10, "KiB")):
        if count % factor == 0:
            return f"{count // factor} {unit}"
    return f"{count} B"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g}m" if seconds >= 120 and seconds % 60 == 0 else f"{seconds:g}s"


def _kind(node: dict[str, Any]) -> str:
    if "title" in node and node["title"][:1].islower():
        return str(node["title"])
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"] if isinstance(value, str))
    if "$ref" in node:
        return str(node["$ref"].rpartition("/")[2])
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(_kind(option) for option in node["anyOf"]))
    return _plain_kind(node)


def _plain_kind(node: dict[str, Any]) -> str:
    kind = node.get("type")
    if kind == "array":
        return f"list of {_kind(node.get('items', {}))}"
    if kind == "object":
        inner = node.get("additionalProperties")
        return f"mapping to {_kind(inner)}" if isinstance(inner, dict) else "mapping"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    kinds = kind if isinstance(kind, list) else [kind]
    return " or ".join(names.get(str(one), "text") for one in kinds)


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
