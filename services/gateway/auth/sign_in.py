"""The sign-in that a gateway's settings choose."""

from collections.abc import Callable
from pathlib import Path

from services.common.config import ConfigError
from services.gateway.auth.authoriser import Authoriser, Open
from services.gateway.auth.callback import Callback
from services.gateway.auth.keys import Keys
from services.gateway.auth.tokens import Tokens
from services.gateway.config import GatewayConfig


def authoriser_of(config: GatewayConfig) -> Authoriser:
    """The authoriser of GATEWAY_AUTH. Raises ConfigError, naming the variable of a file that cannot
    be used."""
    if config.auth == "keys":
        path = config.auth_keys
        assert path is not None  # the settings were checked together
        return _read("GATEWAY_AUTH_KEYS", path, lambda: Keys(path))
    if config.auth == "jwt":
        secret = config.auth_jwt_secret

        def tokens() -> Tokens:
            return Tokens(
                secret=secret,
                jwks_url=config.auth_jwks_url,
                audience=config.auth_audience,
                issuer=config.auth_issuer,
            )

        return tokens() if secret is None else _read("GATEWAY_AUTH_JWT_SECRET", secret, tokens)
    if config.auth == "http":
        assert config.auth_http_url is not None  # the settings were checked together
        return Callback(config.auth_http_url)
    return Open()


def _read(variable: str, path: Path, make: Callable[[], Authoriser]) -> Authoriser:
    try:
        return make()
    except OSError as error:
        raise ConfigError(f"{variable}={path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{variable}={path}: {error}") from None
