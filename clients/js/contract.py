"""Types of the contract's messages as JSON carries them, for TypeScript: `src/contract.d.ts`.

python -m clients.js.contract          writes the file
python -m clients.js.contract --check  fails where it is not what the contract says
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from sightline.v1 import dialogue_pb2, gateway_pb2, rules_pb2

FILE = Path(__file__).parent / "src" / "contract.d.ts"
ROOTS = (
    "CreateSessionRequest",
    "UpdateSessionRequest",
    "GetConversationResponse",
    "GetServerInfoResponse",
    "DecideRequest",
    "DecideResponse",
    "GetMemoryResponse",
    "GetTranscriptResponse",
    "ClientEvent",
    "ServerEvent",
    "ListRulesResponse",
    "UpdateRuleRequest",
    "ListEventsRequest",
    "ListEventsResponse",
    "ListWebhooksResponse",
)
FILES = (gateway_pb2.DESCRIPTOR, dialogue_pb2.DESCRIPTOR, rules_pb2.DESCRIPTOR)
HEAD = """\
// Messages of protos/sightline/v1 as JSON carries them. Written by clients/js/contract.py.
// A field that says nothing is left out; 64-bit numbers are strings of digits, bytes are base64.
"""
_WORDS = {
    FieldDescriptor.CPPTYPE_INT64: "string",
    FieldDescriptor.CPPTYPE_UINT64: "string",
    FieldDescriptor.CPPTYPE_STRING: "string",  # bytes, too
    FieldDescriptor.CPPTYPE_BOOL: "boolean",
}


def text() -> str:
    """The file as it should be."""
    known: dict[str, Descriptor | EnumDescriptor] = {}
    for name in ROOTS:
        _collect(_message(name), known)
    return HEAD + "".join(_declared(known[name]) for name in sorted(known))


def _message(name: str) -> Descriptor:
    return next(
        file.message_types_by_name[name] for file in FILES if name in file.message_types_by_name
    )


def _collect(
    found: Descriptor | EnumDescriptor, known: dict[str, Descriptor | EnumDescriptor]
) -> None:
    if found.name in known or found.file not in FILES:
        return
    if not (isinstance(found, Descriptor) and found.GetOptions().map_entry):
        known[found.name] = found
    if isinstance(found, Descriptor):
        for field in found.fields:
            if (kind := field.message_type or field.enum_type) is not None:
                _collect(kind, known)


def _declared(found: Descriptor | EnumDescriptor) -> str:
    if isinstance(found, EnumDescriptor):
        values = "".join(f'\n  | "{value.name}"' for value in found.values)
        return f"\nexport type {found.name} ={values};\n"
    return f"\nexport interface {found.name} {{\n{''.join(_fields(found))}}}\n"


def _fields(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        yield f"  {field.name}?: {_type(field)};\n"


def _type(field: FieldDescriptor) -> str:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return f"Record<string, {_type(kind.fields_by_name['value'])}>"
    named = kind or field.enum_type
    word = named.name if named is not None else _WORDS.get(field.cpp_type, "number")
    return f"{word}[]" if field.is_repeated else word


if __name__ == "__main__":
    if "--check" not in sys.argv:
        FILE.write_text(text())
    elif FILE.read_text() != text():
        sys.exit(f"{FILE} is not what the contract says: python -m clients.js.contract")
