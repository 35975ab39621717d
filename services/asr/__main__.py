"""Runs the ASR service: `python -m services.asr`."""

import asyncio
import sys
from functools import partial
from typing import Any

from services.asr.config import AsrConfig
from services.asr.engines import Engine, WhisperEngine
from services.asr.hearing import Hearing
from services.asr.model import folder_of
from services.asr.servicer import AsrServicer
from services.common.entry import run
from services.common.identity import identity_of
from services.common.server import ServiceHost
from services.common.tasks import spawn
from sightline.v1 import asr_pb2, asr_pb2_grpc


def make_engine(config: AsrConfig) -> Engine:
    """The engine that the configuration asks for, loaded. Blocks. Raises ConfigError."""
    engine = WhisperEngine(config, folder_of(config))
    engine.warm_up(config.language)
    return engine


async def serve(config: AsrConfig) -> None:
    """Serve until SIGTERM. SERVING once the model is loaded and warm."""
    hearing = Hearing(partial(make_engine, config))
    host = ServiceHost(
        name="asr",
        config=config,
        full_names=(asr_pb2.DESCRIPTOR.services_by_name["AsrService"].full_name,),
        identity=identity_of(config),
    )
    servicer = AsrServicer(hearing, config)
    asr_pb2_grpc.add_AsrServiceServicer_to_server(servicer, host.server)
    await host.start()
    loaded = hearing.start()
    stopping = spawn(host.stopping.wait(), name="asr:stopping")
    both: tuple[asyncio.Future[Any], ...] = (loaded, stopping)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if loaded.done() and loaded.exception() is not None:
            await host.stop()
            loaded.result()
        await host.run(servicer.drain)
    finally:
        stopping.cancel()
        await hearing.stop()


if __name__ == "__main__":
    sys.exit(run("asr", AsrConfig, serve))
