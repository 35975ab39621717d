"""Client secrets: short-lived credentials for a browser's Realtime connections.

A program that has signed in hands them out, with the settings that go with them.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import jwt

from services.gateway.api.realtime.fields import Json, WireError, fields_of, text_of, whole_of
from services.gateway.auth.authoriser import MAX_CREDENTIAL_CHARACTERS
from services.gateway.auth.caller import VIEWING, Caller, Permission
from sightline.errors import UnauthenticatedError
from sightline.reasons import Reason

PREFIX = "ek_"
AUDIENCE = "sightline-realtime"
DEFAULT_S, MIN_S, MAX_S = 600, 10, 7200  # as OpenAI's
TALK_S = 3600.0  # that a connection may go on after its secret is none any more
MAX_MADE = 10_000  # whose makers are known; of older ones, time alone says when they end
MAX_SETTINGS_BYTES = 4096  # they travel in the secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSecret:
    """A secret that was made: what the client is given, and until when (Unix seconds) it can be
    used to connect."""

    value: str
    expires_at: int


class ClientSecrets:
    """Makes and knows secrets. They hold all that there is to know, so that any gateway with the
    same `shared` secret takes them; without one only this process does. One that was made here ends
    when the key is taken out that it was made with."""

    def __init__(self, shared: str | None) -> None:
        key = shared.encode() if shared else secrets.token_bytes(32)
        self._key = hmac.digest(key, AUDIENCE.encode(), hashlib.sha256)
        self._made: OrderedDict[str, Callable[[], bool]] = (
            OrderedDict()
        )  # whether its maker's key is gone

    def make(self, caller: Caller, settings: Json, seconds: int) -> ClientSecret:
        """A secret of `caller`, who may do no more with it than view, ask and watch."""
        allowed = [str(each) for each in VIEWING if caller.may(each)]
        expires_at = int(time.time()) + seconds
        id = secrets.token_hex(8)
        self._made[id] = caller.is_revoked
        while len(self._made) > MAX_MADE:
            self._made.popitem(last=False)
        claims = {
            "jti": id,
            "aud": AUDIENCE,
            "exp": expires_at,
            "sub": caller.name,
            "tenant": caller.tenant,
            "permissions": allowed,
            "sessions": list(caller.sessions),
            "settings": settings,
        }
        return ClientSecret(
            value=PREFIX + jwt.encode(claims, self._key, "HS256"), expires_at=expires_at
        )

    def read(self, value: str) -> tuple[Caller, Json]:
        """Whose it is, and the settings that go with it. Raises UnauthenticatedError."""
        try:
            if len(value) > MAX_CREDENTIAL_CHARACTERS:
                raise jwt.InvalidTokenError
            claims = jwt.decode(
                value.removeprefix(PREFIX),
                self._key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["exp"]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError(
                "the client secret has expired", reason=Reason.TOKEN_EXPIRED
            ) from None
        except (jwt.PyJWTError, ValueError):
            raise UnauthenticatedError(
                "no such client secret", reason=Reason.TOKEN_INVALID
            ) from None
        until_s = claims["exp"] + TALK_S
        is_revoked = self._made.get(claims.get("jti", ""), lambda: False)
        if is_revoked():
            raise UnauthenticatedError(
                "the key that this client secret was made with is gone",
                reason=Reason.TOKEN_EXPIRED,
            )
        caller = Caller(
            name=claims["sub"],
            permissions=frozenset(map(Permission, claims["permissions"])),
            sessions=tuple(claims["sessions"]),
            tenant=claims["tenant"],
            is_current=lambda: time.time() < until_s and not is_revoked(),
            is_revoked=is_revoked,
        )
        return caller, claims["settings"]


def wanted(body: Json) -> tuple[Json, int]:
    """Settings and seconds that a request for a secret asks for. Raises WireError."""
    settings = fields_of(body, "session")
    if len(json.dumps(settings)) > MAX_SETTINGS_BYTES:
        raise WireError(f"settings have at most {MAX_SETTINGS_BYTES} bytes", param="session")
    expires = fields_of(body, "expires_after")
    if (text_of(expires, "anchor", "expires_after.") or "created_at") != "created_at":
        raise WireError("the anchor is created_at", param="expires_after.anchor")
    seconds = whole_of(expires, "seconds", "expires_after.", default=DEFAULT_S)
    if not MIN_S <= seconds <= MAX_S:
        raise WireError(f"seconds are {MIN_S} to {MAX_S}", param="expires_after.seconds")
    return settings, seconds
