"""The password of a Redis, as services are given it: in a file."""

from pathlib import Path

from services.common.config import ConfigError


def redis_password(path: Path | None, variable: str) -> dict[str, str]:
    """The password of the file as redis-py takes it, where one is named; one in the URL goes before
    it. Raises ConfigError, naming the variable, for a file that cannot be read."""
    if path is None:
        return {}
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}={str(path)!r} cannot be read") from error
    return {"password": password} if password else {}
