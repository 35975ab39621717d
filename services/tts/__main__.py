"""Runs the TTS service: `python -m services.tts`."""

import asyncio
import contextlib
import sys

from services.common.config import ConfigError
from services.common.identity import identity_of
from services.common.log import set_up_logging
from services.common.server import ServiceHost
from services.common.tracing import set_up_tracing
from services.tts.config import TtsConfig
from services.tts.engines import Engine, make_engine
from services.tts.servicer import TtsServicer
from services.tts.synthesis import Synthesis
from sightline.v1 import tts_pb2, tts_pb2_grpc


async def serve(config: TtsConfig, engine: Engine) -> None:
    """Serve until SIGTERM. SERVING once the engine has spoken a first word."""
    synthesis = Synthesis(engine, max_waiting=config.max_streams)
    host = ServiceHost(
        name="tts",
        config=config,
        full_names=(tts_pb2.DESCRIPTOR.services_by_name["TtsService"].full_name,),
        identity=identity_of(config),
    )
    servicer = TtsServicer(synthesis, config)
    tts_pb2_grpc.add_TtsServiceServicer_to_server(servicer, host.server)
    await host.start()
    synthesis.start()
    try:
        async with contextlib.aclosing(synthesis.speak("ready", engine.default_voice, 1.0)) as word:
            async for _ in word:
                pass
        await host.run(servicer.drain)
    finally:
        await synthesis.stop()


def main() -> int:
    try:
        config = TtsConfig.from_env()
        set_up_logging("tts", config.log_level)
        set_up_tracing("tts", config)
        asyncio.run(serve(config, make_engine(config)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
