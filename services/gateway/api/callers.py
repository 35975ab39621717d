"""Callers' identities: the one place that asks for credentials, for every door of the API."""

import base64
import binascii
from dataclasses import replace
from typing import Any

from aiohttp import web

from services.common.admission import place_of_call
from services.common.metrics import REFUSED
from services.common.places import Trusted
from services.gateway.api.messages import place_of_request
from services.gateway.auth.authoriser import Approach, Authoriser
from services.gateway.auth.callback import Callback, basic
from services.gateway.auth.caller import ANYBODY, NOBODY, Caller, Permission
from sightline.errors import SightlineError, UnauthenticatedError
from sightline.reasons import Reason

# Browsers cannot set a header of a WebSocket. Its subprotocols they can: this one, which the server
# takes, beside one that is the token.
SUBPROTOCOL = "sightline"
TOKEN_SUBPROTOCOL = "sightline.token."  # and the token in URL-safe Base64 without padding
OPENAI_SUBPROTOCOL = "openai-insecure-api-key."  # and the token, as OpenAI's clients in browsers do


class Callers:
    """Callers of gRPC by their metadata, of HTTP by the header `Authorization: Bearer …`, of a
    WebSocket also by a subprotocol. No token is read from an address, as proxies log those, save
    by a door whose clients have no other place for it; that one says so by `key`.

    `anonymous=True`: whoever brings no credential is `NOBODY` instead of refused. permissions and
    path: what the caller wants to do, to the session of which name, for an authoriser that decides
    case by case; every caller is checked after that all the same.
    """

    def __init__(self, authoriser: Authoriser, trusted: Trusted | None = None) -> None:
        """trusted: the proxies that say whom they speak for."""
        self._authoriser = authoriser
        self._trusted = trusted or Trusted()

    @property
    def wanted(self) -> str:
        """Credential that clients must bring: "" or "token"."""
        return self._authoriser.wanted

    @property
    def case_by_case(self) -> bool:
        """Whether permissions and path matter."""
        return isinstance(self._authoriser, Callback)

    async def of_call(
        self,
        context: Any,
        *permissions: Permission,
        path: str = "",
        anonymous: bool = False,
    ) -> Caller:
        """The caller of a gRPC method. Raises UnauthenticatedError."""
        if not self.wanted:
            return ANYBODY
        header = ""
        for name, value in context.invocation_metadata() or ():
            if name == "authorization" and isinstance(value, str):
                header = value
        place = place_of_call(context, self._trusted)
        approach = Approach(permissions or (Permission.VIEW,), path, place, "grpc")
        return await self._caller(header, "", approach, anonymous)

    async def of_request(
        self,
        request: web.Request,
        *permissions: Permission,
        path: str = "",
        anonymous: bool = False,
        key: str = "",
    ) -> Caller:
        """The caller of an HTTP request. key: a token that came by a way of the door's own. Raises
        UnauthenticatedError."""
        if not self.wanted:
            return ANYBODY
        offered = _of_subprotocols(request.headers.getall("Sec-WebSocket-Protocol", [])) or key
        place = place_of_request(request, self._trusted)
        approach = Approach(permissions or (Permission.VIEW,), path, place, "http")
        header = request.headers.get("Authorization", "")
        return await self._caller(header, offered, approach, anonymous)

    async def _caller(
        self, header: str, offered: str, approach: Approach, anonymous: bool
    ) -> Caller:
        """offered: a token that came otherwise than in the header."""
        credential = _bearer(header) or offered
        if self.case_by_case and not credential:
            user, credential = basic(header)
            approach = replace(approach, user=user)
        try:
            if not credential and anonymous:
                return NOBODY
            if not credential:
                raise UnauthenticatedError(
                    "this server asks for a token", reason=Reason.TOKEN_MISSING
                )
            return await self._authoriser.caller_of(credential, approach)
        except SightlineError as error:
            REFUSED.labels(approach.protocol, error.reason.lower()).inc()
            raise


def credential_of(request: web.Request) -> str:
    """The token that a request brings, in its header or as a subprotocol; "" without one."""
    offered = _of_subprotocols(request.headers.getall("Sec-WebSocket-Protocol", []))
    return _bearer(request.headers.get("Authorization", "")) or offered


def _bearer(header: str) -> str:
    scheme, _, credential = header.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def _of_subprotocols(headers: list[str]) -> str:
    for offered in ",".join(headers).split(","):
        name = offered.strip()
        if name.startswith(OPENAI_SUBPROTOCOL):
            return name.removeprefix(OPENAI_SUBPROTOCOL)
        if name.startswith(TOKEN_SUBPROTOCOL):
            text = name.removeprefix(TOKEN_SUBPROTOCOL)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return text  # of nobody, as the authoriser will say
    return ""
