"""JSON Web Tokens (RFC 7519), signed with a secret of ours or by an identity provider.

Which algorithm is believed is ours to say, never the token's: a secret takes HS256 alone, and the
keys of a provider, which are public, take no HMAC.
"""

import time
from pathlib import Path
from typing import Any

import jwt

from services.common.fresh_file import FreshFiles
from services.gateway.auth.authoriser import ANYHOW, MAX_CREDENTIAL_CHARACTERS, Approach, read_lines
from services.gateway.auth.caller import Caller, Permission, patterns_of, permissions_of
from services.gateway.auth.jwks import Jwks
from sightline.errors import UnauthenticatedError
from sightline.reasons import Reason

LEEWAY_S = 10.0  # between the clock of who signs and ours
MIN_SECRET_BYTES = 32
SCOPE = "sightline:"  # what our permissions begin with among the scopes of others


class Tokens:
    """The authoriser by tokens. Claims: `sub` and `exp`, which must be there; `permissions` (a
    list) or `scope` (`sightline:view sightline:ask`); `sessions` (patterns), `tenant`."""

    wanted = "token"

    def __init__(
        self,
        *,
        secret: Path | None = None,
        jwks_url: str | None = None,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        """secret: file of a secret in each line, of which any may have signed. Raises OSError and
        ValueError for one that cannot be used."""
        self._audience = audience
        self._issuer = issuer
        self._secrets = None
        if secret is not None:
            self._secrets = FreshFiles((secret,), lambda: read_secrets(secret))
        self._jwks = Jwks(jwks_url) if jwks_url is not None else None

    async def caller_of(self, credential: str, approach: Approach = ANYHOW) -> Caller:
        """Raises UnauthenticatedError for a token that is not valid (any more), UnavailableError
        while nobody can tell."""
        if len(credential) > MAX_CREDENTIAL_CHARACTERS:
            raise _invalid()
        if self._jwks is not None:
            claims = await self._of_provider(credential, self._jwks)
        else:
            claims = self._of_secret(credential)
        return caller_of_claims(claims)

    def _of_secret(self, token: str) -> dict[str, Any]:
        assert self._secrets is not None
        failure: UnauthenticatedError = _invalid()
        for secret in self._secrets.value():
            try:
                return self._decoded(token, secret, "HS256")
            except UnauthenticatedError as error:
                if failure.reason == Reason.TOKEN_INVALID:
                    failure = error
        raise failure

    async def _of_provider(self, token: str, jwks: Jwks) -> dict[str, Any]:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            raise _invalid() from None
        key = await jwks.key(key_id if isinstance(key_id, str) else None)
        return self._decoded(token, key.key, key.algorithm_name)

    def _decoded(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError(
                "the token has expired: sign in again", reason=Reason.TOKEN_EXPIRED
            ) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise _invalid() from None
        return claims


def caller_of_claims(claims: dict[str, Any]) -> Caller:
    """The caller that verified claims describe. Raises UnauthenticatedError for absurd ones."""
    name, tenant = claims["sub"], claims.get("tenant", "")
    try:
        if not (isinstance(name, str) and name and isinstance(tenant, str)):
            raise ValueError("sub and tenant are strings")
        if "permissions" in claims:
            permissions = permissions_of(claims["permissions"])
        else:
            permissions = _of_scope(claims.get("scope", ""))
        sessions = patterns_of(claims.get("sessions", ["*"]))
    except ValueError:
        raise _invalid() from None
    until_s = float(claims["exp"]) + LEEWAY_S
    return Caller(
        name=name,
        permissions=permissions,
        sessions=sessions,
        tenant=tenant,
        is_current=lambda: time.time() < until_s,
    )


def read_secrets(path: Path) -> list[str]:
    """The secrets of a file. Raises OSError, and ValueError for one that could be guessed."""
    secrets = [line.strip() for _, line in read_lines(path)]
    if not secrets:
        raise ValueError("there is no secret in it")
    if any(len(secret.encode()) < MIN_SECRET_BYTES for secret in secrets):
        raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes")
    return secrets


def _of_scope(scope: object) -> frozenset[Permission]:
    """Our permissions among the scopes of others."""
    words = scope if isinstance(scope, list) else str(scope).split()
    names = [str(word).removeprefix(SCOPE) for word in words if str(word).startswith(SCOPE)]
    return frozenset(Permission(name) for name in names if name in list(Permission))


def _invalid() -> UnauthenticatedError:
    return UnauthenticatedError("no such token", reason=Reason.TOKEN_INVALID)
