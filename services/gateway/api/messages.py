"""HTTP's side of the contract's messages: protobuf JSON with the proto's field names."""

import re
from typing import Any

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from services.common.bodies import MAX_BODY_BYTES, read_text
from services.common.places import Trusted
from sightline.errors import InvalidArgumentError

PICTURE_WIDTHS, PICTURE_WIDTH = (64, 1280), 640  # pixels
# Protobuf's words for a number or the like in the place of a message.
_NO_OBJECT = re.compile(r"(?:TypeError: )?'\w+' object is not iterable")


def place_of_request(request: web.Request, trusted: Trusted) -> str:
    """Whose limits per address hold for a request."""
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    return trusted.place(request.remote or "", forwarded)


async def read_body(request: web.Request, message: Any, most_bytes: int = MAX_BODY_BYTES) -> Any:
    """The request's JSON in `message`. Raises InvalidArgumentError, or 413 for a long one."""
    return parsed(await read_text(request, most_bytes), message)


def parsed(text: str | bytes, message: Any) -> Any:
    try:
        if text.lstrip()[:1] in ("[", b"["):  # an empty list would pass for an object
            raise json_format.ParseError("it is an object, in braces")
        return json_format.Parse(text, message, max_recursion_depth=16)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        said = _NO_OBJECT.sub("it is an object, in braces", str(error).splitlines()[0])
        raise InvalidArgumentError(f"not a valid message: {said.rstrip('.')[:200]}") from None


def as_json(message: Message, *, whole: bool = False) -> dict[str, Any]:
    """whole: with the fields that say nothing, for readers who look at a thing's shape."""
    return json_format.MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=whole,
    )


def picture_width(wanted: int) -> int:
    """The width that a picture is shown with; 0: the usual one."""
    least, most = PICTURE_WIDTHS
    return min(most, max(least, wanted or PICTURE_WIDTH))


def number_of(request: web.Request, name: str, *, digits: int = 9) -> int:
    """A number from the query; 0 where it is not there. Raises InvalidArgumentError."""
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= digits):
        raise InvalidArgumentError(f"{name} is a number")
    return int(text)
