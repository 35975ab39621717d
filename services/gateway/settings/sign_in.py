"""Settings of who may do what, and of encryption."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from services.common.certificate import Certificate
from services.common.config import ConfigError, setting
from services.common.hosts import is_loopback


@dataclass(frozen=True, kw_only=True)
class SignInSettings:
    """How callers are known, and the certificate that they see."""

    auth: str | None = setting(
        None,
        "Who may do what: keys (GATEWAY_AUTH_KEYS), jwt (GATEWAY_AUTH_JWT_SECRET or "
        "GATEWAY_AUTH_JWKS_URL), http (GATEWAY_AUTH_HTTP_URL is asked), or open: everybody "
        "everything. Empty is open too, but listens on this machine alone.",
        choices=("open", "keys", "jwt", "http"),
    )
    auth_keys: Path | None = setting(
        None,
        "File of keys, a line of JSON each, read again when it changes; "
        "`python -m services.gateway.auth` makes them.",
    )
    auth_jwt_secret: Path | None = setting(
        None,
        "File of the secret (HS256) that tokens are signed with, of at least 32 bytes; of several "
        "lines, each is one. Read again when it changes.",
    )
    auth_jwks_url: str | None = setting(
        None, "Where an identity provider has its public keys, https://…/jwks.json.", secret=True
    )
    auth_audience: str | None = setting(
        None, "`aud` that tokens must have; empty: it is not looked at."
    )
    auth_issuer: str | None = setting(
        None, "`iss` that tokens must have; empty: it is not looked at."
    )
    auth_http_url: str | None = setting(
        None,
        "What is asked whether somebody may do something: POST with JSON of user, password, token, "
        "ip, action and path; 2xx allows.",
        secret=True,
    )

    tls_cert: Path | None = setting(
        None,
        "File of the certificate chain (PEM) of the gRPC and the HTTP port, read again when it "
        "changes; empty: they are not encrypted.",
    )
    tls_key: Path | None = setting(None, "File of its key (PEM, without a password).")

    def check_sign_in(self, host: str) -> None:
        """Raise ConfigError where one that listens at `host` could not know whom it lets in."""
        if self.auth is None and not is_loopback(host):
            raise ConfigError(
                f"GATEWAY_HOST={host} lets others in: set GATEWAY_AUTH to keys or jwt, or to "
                "open where everybody may do everything"
            )
        if self.auth == "keys" and self.auth_keys is None:
            raise ConfigError("GATEWAY_AUTH_KEYS must name the file of keys: GATEWAY_AUTH is keys")
        if self.auth == "jwt" and (self.auth_jwt_secret is None) == (self.auth_jwks_url is None):
            raise ConfigError(
                "GATEWAY_AUTH=jwt needs either GATEWAY_AUTH_JWT_SECRET or GATEWAY_AUTH_JWKS_URL"
            )
        if self.auth == "http" and self.auth_http_url is None:
            raise ConfigError("GATEWAY_AUTH_HTTP_URL must be set: GATEWAY_AUTH is http")
        url = urlsplit(self.auth_jwks_url or "https://none")
        if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
            raise ConfigError("GATEWAY_AUTH_JWKS_URL is no https:// URL")  # it may hold a password
        if urlsplit(self.auth_http_url or "https://none").scheme not in ("http", "https"):
            raise ConfigError("GATEWAY_AUTH_HTTP_URL is no http:// URL")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("GATEWAY_TLS_CERT and GATEWAY_TLS_KEY are set together, or neither")

    def certificate(self) -> Certificate | None:
        """Certificate that the ports are encrypted with. Raises ConfigError for files that cannot
        be used."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        try:
            return Certificate(self.tls_cert, self.tls_key)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"GATEWAY_TLS_CERT={self.tls_cert}, GATEWAY_TLS_KEY={self.tls_key}: {reason}"
            ) from None
