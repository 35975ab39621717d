"""The Redis of a service: one, one of several addresses, or the one that Sentinels name."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import redis.exceptions as redis_errors
from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from services.common.config import ConfigError
from services.common.redis_config import RedisConfig
from sightline.errors import ResourceExhaustedError, SightlineError, UnavailableError
from sightline.reasons import Reason

T = TypeVar("T")

# Refusals of one address that another may not share.
_TRY_NEXT = frozenset({"away", "timeout", "readonly", "loading"})


class RedisServers:
    """Clients of the Redis at `redis_url`, or of the one of several that takes writes.

    Several URLs are those of a primary and its replicas: the one that answered last is asked first,
    and where it is away or read-only the next. With `redis_sentinel` they are Sentinels, which say
    which Redis is the primary. Connections are made when needed and again after every failure, so
    nothing has to be restarted.
    """

    def __init__(self, config: RedisConfig) -> None:
        """Raises ConfigError for what is no Redis URL, or a file that cannot be read."""
        self._timeout_s = config.redis_timeout_s
        self._turns = asyncio.Semaphore(config.redis_connections)
        self._sentinel: Sentinel | None = None
        options = _options(config)
        try:
            if config.redis_sentinel is None:
                self._clients = [
                    Redis.from_pool(ConnectionPool.from_url(url, **options))
                    for url in config.redis_urls
                ]
            else:
                self._sentinel = _sentinel(config, options)
                self._clients = [self._sentinel.master_for(config.redis_sentinel)]
        except (ValueError, TypeError) as error:  # never repeat the URL: it may hold a password
            name = f"{config.prefix}REDIS_URL"
            raise ConfigError(f"{name} is not a Redis URL such as redis://host:6379/0") from error

    def script(self, text: str) -> Any:
        """A script that runs on any of the clients: `await script(keys, args, client=…)`."""
        return self._clients[0].register_script(text)

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Result of `work` with the client of the primary. Raises what it raises, and
        TimeoutError; nothing is tried again after a timeout where there is one address."""
        refusal: Exception | None = None
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        async with asyncio.timeout(self._timeout_s), self._turns:
            for client in list(self._clients):
                try:
                    async with asyncio.timeout(self._timeout_s / len(self._clients)):
                        result = await work(client)
                        if task.cancelling() > cancelled:
                            # Python 3.11's wait_for, by which redis-py sends, has lost it.
                            raise asyncio.CancelledError
                except (redis_errors.RedisError, OSError, TimeoutError) as error:
                    if translate(error)[0] not in _TRY_NEXT:
                        raise
                    refusal = refusal or error
                    if self._sentinel is not None:
                        # What was the primary may be there, and be another's replica now.
                        await client.connection_pool.disconnect(inuse_connections=False)
                    continue
                if client is not self._clients[0]:
                    self._clients.remove(client)
                    self._clients.insert(0, client)
                return result
        assert refusal is not None
        raise refusal

    async def aclose(self) -> None:
        for client in self._clients:
            await client.aclose()
        if self._sentinel is not None:
            await self._sentinel.aclose()


def _options(config: RedisConfig) -> dict[str, Any]:
    return {
        **_password(config.redis_password_file, f"{config.prefix}REDIS_PASSWORD_FILE"),
        "socket_timeout": config.redis_timeout_s,
        "socket_connect_timeout": config.redis_timeout_s,
        # One more try, at once: a pooled connection breaks when Redis restarts. All scripts are
        # idempotent. A timeout is not tried again: the caller waits.
        "retry": Retry(NoBackoff(), 1, (redis_errors.ConnectionError,)),
    }


def _password(path: Path | None, variable: str) -> dict[str, str]:
    """The password of the file as redis-py takes it, where one is named; one in the URL goes before
    it. Raises ConfigError, naming the variable, for a file that cannot be read."""
    if path is None:
        return {}
    try:
        password = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}={str(path)!r} cannot be read") from error
    return {"password": password} if password else {}


def _sentinel(config: RedisConfig, options: dict[str, Any]) -> Sentinel:
    """The Sentinels at the URLs. What a URL says besides host and port (credentials, database, TLS)
    is said of the Redis that they name; TLS of themselves, too. Raises ValueError."""
    parts = [parse_url(url) for url in config.redis_urls]
    if any("host" not in each for each in parts):
        raise ValueError("a Sentinel has a host")
    first = dict(parts[0])
    addresses = [(each["host"], each.get("port", 26379)) for each in parts]
    encrypted = first.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        first.pop(name, None)
    # One that is away is passed over while there still is time to ask another and the primary.
    timeout_s = config.redis_timeout_s / (1 + len(parts))
    asking = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "ssl": encrypted,
    }
    return Sentinel(addresses, sentinel_kwargs=asking, **{**first, **options, "ssl": encrypted})


# What Redis says when it will not do something: the code, the reason for metrics, our error.
_REFUSALS: dict[str, tuple[str, type[SightlineError], str]] = {
    "OOM": ("full", ResourceExhaustedError, "Redis is out of memory"),
    "MISCONF": ("disk", UnavailableError, "Redis cannot write to its disk"),
    "READONLY": ("readonly", UnavailableError, "Redis is a read-only replica"),
    "NOREPLICAS": ("readonly", UnavailableError, "Redis has too few replicas to write"),
    "MASTERDOWN": ("away", UnavailableError, "Redis has lost its primary"),
    "CLUSTERDOWN": ("away", UnavailableError, "the Redis cluster is down"),
    "LOADING": ("loading", UnavailableError, "Redis is still loading its data"),
    "BUSY": ("busy", UnavailableError, "Redis is busy with a script"),
}
_CODE = re.compile(r"\b(" + "|".join(_REFUSALS) + r")\b")
# redis-py cuts these codes off the message and gives a class instead. An error from within a
# script keeps its code, but somewhere in a message whose form depends on Redis's version.
_CLASSES: dict[type[Exception], str] = {
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
}


def translate(error: Exception) -> tuple[str, SightlineError]:
    """(reason for metrics, error for the caller) of what Redis or its client raised."""
    code = next((code for kind, code in _CLASSES.items() if isinstance(error, kind)), None)
    if code is None and isinstance(error, redis_errors.ResponseError):
        match = _CODE.search(str(error))
        code = match[1] if match else None
    if code is not None:
        reason, refusal, message = _REFUSALS[code]
        return reason, refusal(message)
    if isinstance(error, TimeoutError | redis_errors.TimeoutError):
        return "timeout", UnavailableError("Redis does not answer in time")
    if isinstance(error, redis_errors.AuthenticationError | redis_errors.NoPermissionError):
        return "denied", UnavailableError("Redis refuses our credentials")
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return "away", UnavailableError("Redis is away")
    return "error", UnavailableError("Redis answers with an error")


@contextlib.contextmanager
def told_as_away(message: str, reason: Reason) -> Iterator[None]:
    """Turns what a Redis raises that is away or in trouble into UnavailableError, as callers are
    told it."""
    try:
        yield
    except (redis_errors.RedisError, OSError, TimeoutError) as error:
        raise UnavailableError(message, reason=reason, retry_after_s=1.0) from error
