"""QR codes: an address that somebody has before them, for the phone in their hand."""

import io
from urllib.parse import urlsplit

from aiohttp import web

from services.gateway.api.callers import Callers
from services.gateway.api.operations import Parameter, operation
from services.gateway.auth.caller import Permission
from sightline.errors import InvalidArgumentError

MAX_ADDRESS = 512  # characters; a code of more is hard to read
ADDRESS = Parameter(name="address", about="http or https, at most 512 characters")


class CodesApi:
    """The picture of an address."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    @operation(
        "GET",
        "/api/code.svg",
        "server",
        "A QR code of an address, as SVG",
        kinds=("image/svg+xml",),
        parameters=(ADDRESS,),
        refusals=(400, 401, 403),
    )
    async def code(self, request: web.Request) -> web.Response:
        caller = await self._callers.of_request(request)
        caller.check(Permission.VIEW)
        address = request.query.get("address", "")
        if _scheme(address) not in ("http", "https") or len(address) > MAX_ADDRESS:
            raise InvalidArgumentError("address is one of http or https, of at most 512 characters")
        return web.Response(body=_svg(address), content_type="image/svg+xml")


def _scheme(address: str) -> str:
    """The scheme of an address; "" where it is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return parts.scheme if parts.hostname else ""


def _svg(text: str) -> bytes:
    import segno

    picture = io.BytesIO()
    code = segno.make_qr(text, error="m")
    code.save(picture, kind="svg", border=4, light="#fff", omitsize=True, xmldecl=False)
    return picture.getvalue()
