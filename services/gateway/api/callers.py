"""Who calls: the one place that asks for credentials, for every door of the API."""

import base64
import binascii
from typing import Any

from aiohttp import web

from services.common.metrics import REFUSED
from services.gateway.auth.authoriser import Authoriser
from services.gateway.auth.caller import ANYBODY, NOBODY, Caller
from sightline.errors import SightlineError, UnauthenticatedError
from sightline.reasons import Reason

# Browsers cannot set a header of a WebSocket. Its subprotocols they can: this one, which the server
# takes, beside one that is the token.
SUBPROTOCOL = "sightline"
TOKEN_SUBPROTOCOL = "sightline.token."  # and the token in URL-safe Base64 without padding


class Callers:
    """Callers of gRPC by their metadata, of HTTP by the header `Authorization: Bearer …`, of a
    WebSocket also by a subprotocol. No token is ever read from an address: those are logged.

    `anonymous=True`: whoever brings no credential is `NOBODY` instead of refused.
    """

    def __init__(self, authoriser: Authoriser) -> None:
        self._authoriser = authoriser

    @property
    def wanted(self) -> str:
        """What clients must bring: "" or "token"."""
        return self._authoriser.wanted

    async def of_call(self, context: Any, *, anonymous: bool = False) -> Caller:
        """The caller of a gRPC method. Raises UnauthenticatedError."""
        header = ""
        for name, value in context.invocation_metadata() or ():
            if name == "authorization" and isinstance(value, str):
                header = value
        return await self._caller("grpc", _bearer(header), anonymous)

    async def of_request(self, request: web.Request, *, anonymous: bool = False) -> Caller:
        """The caller of an HTTP request. Raises UnauthenticatedError."""
        credential = _bearer(request.headers.get("Authorization", ""))
        if not credential:
            credential = _of_subprotocols(request.headers.getall("Sec-WebSocket-Protocol", []))
        return await self._caller("http", credential, anonymous)

    async def _caller(self, port: str, credential: str, anonymous: bool) -> Caller:
        if not self.wanted:
            return ANYBODY
        try:
            if not credential and anonymous:
                return NOBODY
            if not credential:
                raise UnauthenticatedError(
                    "this server asks for a token", reason=Reason.TOKEN_MISSING
                )
            return await self._authoriser.caller_of(credential)
        except SightlineError as error:
            REFUSED.labels(port, error.reason.lower()).inc()
            raise


def _bearer(header: str) -> str:
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def _of_subprotocols(headers: list[str]) -> str:
    for offered in ",".join(headers).split(","):
        name = offered.strip()
        if name.startswith(TOKEN_SUBPROTOCOL):
            text = name.removeprefix(TOKEN_SUBPROTOCOL)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return text  # of nobody, as the authoriser will say
    return ""
