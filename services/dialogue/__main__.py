"""Runs the dialogue service: `python -m services.dialogue`.

Redis may be away, at start or later: the service stays SERVING and answers UNAVAILABLE, because a
restart would not bring Redis back; it is not ready then. `sightline_dialogue_redis_up` and the log
tell operators.
"""

import asyncio
import logging
import sys

from services.common.entry import run
from services.common.identity import identity_of
from services.common.server import ServiceHost
from services.common.tasks import cancel_and_wait, spawn
from services.dialogue.config import DialogueConfig
from services.dialogue.metrics import REDIS_UP
from services.dialogue.servicer import DialogueServicer
from services.dialogue.store import RedisStore
from sightline.errors import SightlineError
from sightline.v1 import dialogue_pb2, dialogue_pb2_grpc

log = logging.getLogger("services.dialogue")


class RedisWatch:
    """Looks after Redis: the gauge is current, the log has each change once. `reason`: why it is
    away, "" while it answers."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.reason = "redis was not asked yet"

    async def run(self, interval_s: float) -> None:
        """Look every so often, for ever."""
        was_up: bool | None = None
        while True:
            try:
                await self._store.ping()
                self.reason = ""
            except SightlineError as error:
                self.reason = f"redis is away: {error.message}"
            up = not self.reason
            REDIS_UP.set(up)
            if up and not was_up:
                log.info("redis answers")
            elif not up and was_up is not False:
                log.warning("degraded: redis is away", extra={"reason": self.reason})
            was_up = up
            await asyncio.sleep(interval_s)


async def serve(config: DialogueConfig) -> None:
    """Serve until SIGTERM."""
    store = RedisStore(config)
    watch = RedisWatch(store)
    service = dialogue_pb2.DESCRIPTOR.services_by_name["DialogueService"]
    host = ServiceHost(
        name="dialogue",
        config=config,
        full_names=(service.full_name,),
        unready=lambda: watch.reason,
        identity=identity_of(config),
    )
    servicer = DialogueServicer(store, config)
    dialogue_pb2_grpc.add_DialogueServiceServicer_to_server(servicer, host.server)
    await host.start()
    watcher = spawn(watch.run(config.redis_check_s), name="watch redis")
    try:
        await host.run()
    finally:
        await cancel_and_wait(watcher)
        await store.aclose()


if __name__ == "__main__":
    sys.exit(run("dialogue", DialogueConfig, serve))
