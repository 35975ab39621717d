"""The public keys of an identity provider: a JSON Web Key Set (RFC 7517) behind a URL."""

import asyncio
import logging
import time
from typing import Any

import aiohttp
import jwt

from sightline.errors import UnauthenticatedError, UnavailableError
from sightline.reasons import Reason

log = logging.getLogger(__name__)

KEPT_S = 300.0  # until the set is asked for anew
LEAST_S = 10.0  # between two requests: an unknown key id must not make one each
TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")


class Jwks:
    """Keys by their id, fetched when needed and kept. Where the URL is away, those known hold."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str | None, Any] = {}
        self._fetched_s = float("-inf")  # the last time that it worked
        self._tried_s = float("-inf")
        self._lock = asyncio.Lock()

    async def key(self, key_id: str | None) -> Any:
        """The key of this id; without an id, the only one there is.

        Raises UnauthenticatedError for an unknown one, UnavailableError while there are none.
        """
        now_s = time.monotonic()
        if now_s - self._fetched_s > KEPT_S or self._find(key_id) is None:
            await self._refresh()
        key = self._find(key_id)
        if key is None and not self._keys:
            raise UnavailableError(
                "who signs tokens cannot be reached: try again in some seconds",
                reason=Reason.SIGN_IN_AWAY,
                retry_after_s=LEAST_S,
            )
        if key is None:
            raise UnauthenticatedError("no such token", reason=Reason.TOKEN_INVALID)
        return key

    def _find(self, key_id: str | None) -> Any:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        async with self._lock:
            if time.monotonic() - self._tried_s < LEAST_S:
                return
            self._tried_s = time.monotonic()
            try:
                self._keys = await self._fetch()
                self._fetched_s = time.monotonic()
            except (aiohttp.ClientError, TimeoutError, ValueError, jwt.PyJWTError) as error:
                reason = f"{type(error).__name__}: {error}"
                log.warning("key set cannot be read", extra={"reason": reason})

    async def _fetch(self) -> dict[str | None, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as client,
            client.get(self._url, allow_redirects=False) as reply,
        ):
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            body = await reply.content.read(MAX_BYTES + 1)
            while len(body) <= MAX_BYTES and not reply.content.at_eof():
                body += await reply.content.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        found = jwt.PyJWKSet.from_json(body.decode())
        return {
            key.key_id: key
            for key in found.keys
            if key.public_key_use in (None, "sig") and key.algorithm_name in ALGORITHMS
        }
