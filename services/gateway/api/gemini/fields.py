"""Fields of Gemini's JSON: clients write each name in camelCase or in snake_case, and what is not
known is passed over."""

import base64
import binascii
import json
import re
from typing import Any

from services.gateway.api.realtime.fields import Json, WireError, fields_of, list_of, text_of

MAX_PARTS = 64
_URL_SAFE = str.maketrans("-_", "+/")
_WORD = re.compile(r"_([a-z0-9])")


def named(fields: Json) -> Json:
    """An object's fields by their names in camelCase. Those of the objects in it stay."""
    return {_WORD.sub(lambda found: found[1].upper(), name): fields[name] for name in fields}


def object_in(fields: Json, name: str, where: str = "") -> Json:
    """An object; an empty one where it is left out or null."""
    return named(fields_of(fields, name, where))


def objects_in(fields: Json, name: str, where: str = "", most: int = MAX_PARTS) -> list[Json]:
    """A list of objects; one object stands for a list of it."""
    value = fields.get(name)
    found = [value] if isinstance(value, dict) else list_of(fields, name, where)
    if len(found) > most or not all(isinstance(each, dict) for each in found):
        raise WireError(f"{where}{name} are at most {most} objects", param=where + name)
    return [named(each) for each in found]


def bytes_of(fields: Json, name: str, where: str) -> bytes:
    """Bytes in Base64, of either alphabet, with or without padding."""
    text = text_of(fields, name, where, required=True).rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise WireError(f"{where}{name} is Base64", param=where + name) from None


def kind_of(fields: Json, where: str) -> tuple[str, dict[str, str]]:
    """A blob's MIME type in small letters, and its parameters."""
    text = text_of(fields, "mimeType", where, required=True)
    kind, *rest = [part.strip() for part in text.split(";")]
    pairs = [part.partition("=")[::2] for part in rest]
    return kind.lower(), {name.strip().lower(): value.strip() for name, value in pairs}


def arguments_of(text: str) -> dict[str, Any]:
    """What a model gives to a function; nothing where that is no object."""
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
