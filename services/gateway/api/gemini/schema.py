"""Functions as Gemini's clients declare them: their parameters are a subset of OpenAPI's schema,
which is JSON Schema but for the spelling of its types, or JSON Schema itself."""

import json
from typing import Any

from services.gateway.api.gemini.fields import named, objects_in
from services.gateway.api.realtime.fields import Json, WireError, fields_of, text_of
from services.gateway.api.realtime.functions import MAX_TOOLS, Function

_LISTS = ("anyOf", "prefixItems")
_PLAIN = ("title", "description", "enum", "required", "default", "minimum", "maximum", "pattern")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def functions_of(setup: Json, where: str) -> tuple[Function, ...]:
    """The functions of `tools`; tools of other kinds are Google's own, and nothing comes of them
    here. Raises WireError."""
    functions = [
        _function_of(declared, f"{where}tools.functionDeclarations.")
        for tool in objects_in(setup, "tools", where, MAX_TOOLS)
        for declared in objects_in(tool, "functionDeclarations", f"{where}tools.", MAX_TOOLS)
    ]
    if len(functions) > MAX_TOOLS:
        raise WireError(f"at most {MAX_TOOLS} functions", param=f"{where}tools")
    return tuple(functions)


def _function_of(declared: Json, where: str) -> Function:
    schema: Any = fields_of(declared, "parametersJsonSchema", where)
    if not schema and (given := fields_of(declared, "parameters", where)):
        schema = json_schema_of(given)
    return Function(
        name=text_of(declared, "name", where, required=True),
        description=text_of(declared, "description", where),
        parameters=json.dumps(schema) if schema else "",
    )


def json_schema_of(schema: Json) -> dict[str, Any]:
    """JSON Schema of a schema of Gemini's."""
    fields = named(schema)
    made: dict[str, Any] = {name: fields[name] for name in _PLAIN if fields.get(name) is not None}
    for name in _COUNTS:  # int64, which comes as a string
        value = fields.get(name)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, int):
            made[name] = value
    kind = fields.get("type")
    if isinstance(kind, str) and kind.upper() != "TYPE_UNSPECIFIED":
        nullable = fields.get("nullable") is True
        made["type"] = [kind.lower(), "null"] if nullable else kind.lower()
    if isinstance(fields.get("items"), dict):
        made["items"] = json_schema_of(fields["items"])
    if isinstance(fields.get("properties"), dict):
        made["properties"] = {
            name: json_schema_of(each)
            for name, each in fields["properties"].items()
            if isinstance(each, dict)
        }
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            made[name] = [json_schema_of(each) for each in fields[name] if isinstance(each, dict)]
    return made
