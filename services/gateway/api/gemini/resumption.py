"""Handles of Gemini Live sessions, which a client goes on with after it has connected again."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

import jwt

from services.gateway.api.realtime.fields import WireError
from services.gateway.api.realtime.items import Item, Part, new_id
from services.gateway.auth.caller import Caller

AUDIENCE = "sightline-gemini"
LIFE_S = 7200  # as Google's
MAX_SAID = 64  # messages
MAX_CHARACTERS = 24 * 1024  # of them
_PARTS = {"user": "input_text", "system": "input_text", "assistant": "output_text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a session goes on with: the live session it was about, and what was said."""

    stream: str = ""
    items: tuple[Item, ...] = ()


class Handles:
    """Makes and knows handles. They hold all that there is to know, so that any gateway with the
    same `shared` secret takes them, for the caller they were made for; without one only this
    process does."""

    def __init__(self, shared: str | None) -> None:
        key = shared.encode() if shared else secrets.token_bytes(32)
        self._key = hmac.digest(key, AUDIENCE.encode(), hashlib.sha256)

    def make(self, caller: Caller, stream: str, items: Iterable[Item]) -> str:
        """A handle with the newest words of these items."""
        claims = {
            "aud": AUDIENCE,
            "exp": int(time.time()) + LIFE_S,
            "sub": caller.name,
            "tenant": caller.tenant,
            "stream": stream,
            "said": _said(items),
        }
        return jwt.encode(claims, self._key, "HS256")

    def read(self, handle: str, caller: Caller) -> Resumed:
        """Raises WireError for a handle that is none, or somebody else's."""
        try:
            claims = jwt.decode(
                handle,
                self._key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                options={"require": ["exp"]},
            )
            if (claims["sub"], claims["tenant"]) != (caller.name, caller.tenant):
                raise jwt.InvalidTokenError
        except (jwt.PyJWTError, ValueError):
            raise WireError(
                "no session goes on with this handle: it is too old, or of another server",
                code="invalid_handle",
                param="setup.sessionResumption.handle",
            ) from None
        items = tuple(
            Item(id=new_id("item"), role=role, content=(Part(type=_PARTS[role], text=words),))
            for role, words in claims["said"]
        )
        return Resumed(stream=claims["stream"], items=items)


def _said(items: Iterable[Item]) -> list[tuple[str, str]]:
    """Who said what, as far as there is room for it, oldest first."""
    said: list[tuple[str, str]] = []
    left = MAX_CHARACTERS
    for item in reversed(list(items)):
        if item.role not in _PARTS or not item.words:
            continue
        left -= len(item.words)
        if left < 0 or len(said) == MAX_SAID:
            break
        said.append((item.role, item.words))
    return said[::-1]
