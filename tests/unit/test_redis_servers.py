"""The Redis of a service, without one."""

import asyncio
from typing import Any

import pytest

from services.common.redis_servers import RedisServers
from services.gateway.config import GatewayConfig
from tests.eventually import PATIENCE_S


async def test_a_cancellation_that_a_command_loses_is_kept() -> None:
    """Python 3.11's wait_for loses one that comes as it ends: who is to end then never does."""
    servers = RedisServers(GatewayConfig(redis_url="redis://127.0.0.1:1"))
    begun = asyncio.Event()

    async def work(_: Any) -> str:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            return "lost"
        return "done"

    task = asyncio.create_task(servers.run(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await servers.aclose()
