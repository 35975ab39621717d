"""JSON Schemas of the contract's messages, as protobuf JSON has them with the proto's names."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from services.gateway.api.operations import Shape

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
}
_LONG = {
    FieldDescriptor.TYPE_INT64: "^-?[0-9]{1,19}$",
    FieldDescriptor.TYPE_UINT64: "^[0-9]{1,20}$",
}
_NUMBERS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


class Schemas:
    """Collects the schemas that are referred to; `components` are for OpenAPI's."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def of(self, shape: Shape) -> dict[str, Any]:
        """Schema of a body: of a message a reference, of a JSON Schema itself, in which messages
        may stand as well."""
        if shape is None:
            return {}
        if isinstance(shape, dict):
            return {key: self._inner(value) for key, value in shape.items()}
        return self._reference(shape.DESCRIPTOR)

    def _inner(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self.of(value)
        if isinstance(value, list):
            return [self._inner(each) for each in value]
        return self.of(value) if hasattr(value, "DESCRIPTOR") else value

    def _reference(self, message: Any) -> dict[str, Any]:
        if message.name not in self.components:
            self.components[message.name] = {}  # messages may hold each other
            fields = {each.name: self._field(each) for each in message.fields}
            self.components[message.name] = {"type": "object", "properties": fields}
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _field(self, field: Any) -> dict[str, Any]:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            value = self._one(message.fields_by_name["value"])
            return {"type": "object", "additionalProperties": value}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: Any) -> dict[str, Any]:
        kind = field.type
        if kind == FieldDescriptor.TYPE_MESSAGE:
            return self._reference(field.message_type)
        if kind == FieldDescriptor.TYPE_ENUM:
            return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        if kind == FieldDescriptor.TYPE_BOOL:
            return {"type": "boolean"}
        if kind == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        if kind in _INTEGERS:
            least, most = _INTEGERS[kind]
            return {"type": "integer", "minimum": least, "maximum": most}
        if kind in _LONG:  # more than a JSON number holds
            return {"type": "string", "pattern": _LONG[kind]}
        if kind in _NUMBERS:
            return {"type": "number"}
        return {"type": "string"}
