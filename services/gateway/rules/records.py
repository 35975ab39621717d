"""The Redis of rules: scripts and commands, with errors that callers are told."""

from collections.abc import Awaitable, Callable
from typing import Any

from services.common.redis_config import RedisConfig
from services.common.redis_servers import RedisServers, told_as_away
from services.gateway.rules.scripts import SCRIPTS
from sightline.reasons import Reason

AWAY = "rules and events cannot be looked up now: try again"


class Records:
    """Connections that the stores of rules, events and webhooks share. Every method raises
    UnavailableError while Redis is away or does not answer in time."""

    def __init__(self, config: RedisConfig) -> None:
        """Raises ConfigError for a URL or a password that cannot be used."""
        self._servers = RedisServers(config)
        self._scripts = {name: self._servers.script(text) for name, text in SCRIPTS.items()}

    async def aclose(self) -> None:
        await self._servers.aclose()

    async def run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        """What a script gives."""
        run = self._scripts[script]
        return await self.do(lambda client: run(keys=keys, args=arguments, client=client))

    async def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """What is done with the client of the primary gives."""
        with told_as_away(AWAY, Reason.RULES_AWAY):
            return await self._servers.run(work)

    async def together(self, commands: Callable[[Any], object]) -> list[Any]:
        """Replies to commands that are put on a pipeline, in one round trip."""

        async def work(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                commands(pipe)
                replies: list[Any] = await pipe.execute()
            return replies

        found: list[Any] = await self.do(work)
        return found
