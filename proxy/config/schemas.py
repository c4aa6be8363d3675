"""JSON Schemas of the files, for editors that check while one types.

Rules: made from the models, so they can't say anything else. What a schema refuses, loading refuses too; loading
knows more.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from proxy.config.deployment import DeploymentFile
from proxy.config.policies import Envelope, OverlayFile, PolicyFile
from proxy.config.registry import Registry, installed
from proxy.config.strict import documentation
from proxy.config.teams import TeamsFile
from proxy.config.upstreams import Deployment, Model

Kind = Literal["deployment", "policies", "overlay", "teams"]
_MODELS: Final[dict[str, type[BaseModel]]] = {"deployment": DeploymentFile, "overlay": OverlayFile, "teams": TeamsFile}
_INCLUDE: Final[dict[str, Any]] = {
    "title": "include",
    "description": "Another policy file in this place.",
    "type": "object",
    "properties": {"include": {"type": "string", "description": "Its path, relative to this file."}},
    "required": ["include"],
    "additionalProperties": False,
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: Kind = "deployment", registry: Registry | None = None) -> dict[str, Any]:
    """The JSON Schema of a kind of file; for policy files, with every installed policy as a form of `use`."""
    if kind == "policies":
        return {"$schema": DIALECT, **_policies(installed() if registry is None else registry), "title": "Policy file"}
    return {"$schema": DIALECT, **of_model(_MODELS[kind]), "title": f"{kind.capitalize()} file"}


class _Documented(GenerateJsonSchema):
    """With the docstrings under fields as descriptions, also of models that aren't ours."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        for name, text in documentation(model).items():
            if name in found.get("properties", {}):
                found["properties"][name].setdefault("description", text)
        return _with_short_form(found) if model is Model else found


def _with_short_form(found: JsonSchemaValue) -> JsonSchemaValue:
    """A model's `{upstream: name}` beside `{deployments: [...]}`."""
    short = of_model(Deployment)["properties"]
    rest = {name: value for name, value in found.items() if name != "required"}
    either = [{"required": ["upstream"]}, {"required": ["deployments"]}]
    return {**rest, "properties": {**short, **found["properties"]}, "oneOf": either}


def of_model(model: type[BaseModel]) -> dict[str, Any]:
    """One of our models: without null, which files can't say, and without titles that only repeat a name."""
    found: dict[str, Any] = _tidied(model.model_json_schema(schema_generator=_Documented))
    return found


def _policies(registry: Registry) -> dict[str, Any]:
    found, envelope = of_model(PolicyFile), of_model(Envelope)
    definitions = {name: value for name, value in found["$defs"].items() if name != "PolicyEntry"}
    definitions |= envelope.pop("$defs", {})
    variants = [_INCLUDE]
    for name in sorted(registry):
        variant, own = _variant(name, registry, envelope)
        definitions |= own
        variants.append(variant)
    described = found["properties"]["policies"].get("description", "")
    found["properties"]["policies"] = {"type": "array", "items": {"oneOf": variants}, "description": described}
    return {**found, "$defs": definitions}


def _variant(name: str, registry: Registry, envelope: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One policy's form: the envelope with `use` fixed, and its own options; and the definitions that those need."""
    config = registry[name]().Config
    options = config.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}", schema_generator=_Documented)
    own = {f"{name}.{inner}": value for inner, value in options.pop("$defs", {}).items()}
    use = {**envelope["properties"]["use"], "const": name}
    properties = {**envelope["properties"], "use": use, **options.get("properties", {})}
    variant = {
        "title": name,
        "type": "object",
        "properties": properties,
        "required": ["use", *options.get("required", [])],
        "additionalProperties": config.model_config.get("extra") == "allow",
    }
    described = (config.__doc__ or "").strip()
    return ({**variant, "description": described} if described else variant), own


def _tidied(node: Any) -> Any:
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: _tidied(value) for name, value in node.items() if name != "properties"}
    if "properties" in node:
        found["properties"] = {name: _property(name, value) for name, value in node["properties"].items()}
    return found


def _property(name: str, node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _tidied(node)
    if found.get("title") == name.replace("_", " ").title():
        del found["title"]
    if found.get("default", ...) is None:
        del found["default"]
    some = [option for option in found.get("anyOf", []) if option != {"type": "null"}]
    if len(some) == 1 and len(found["anyOf"]) == 2:
        return {**some[0], **{key: value for key, value in found.items() if key != "anyOf"}}
    return {**found, "anyOf": some} if some else found
