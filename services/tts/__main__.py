"""Runs the TTS service: `python -m services.tts`."""

import contextlib
import sys

from services.common.entry import run
from services.common.identity import identity_of
from services.common.server import ServiceHost
from services.tts.config import TtsConfig
from services.tts.engines import make_engine
from services.tts.servicer import TtsServicer
from services.tts.synthesis import Synthesis
from sightline.v1 import tts_pb2, tts_pb2_grpc


async def serve(config: TtsConfig) -> None:
    """Serve until SIGTERM. SERVING once the engine has spoken a first word."""
    engine = make_engine(config)
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


if __name__ == "__main__":
    sys.exit(run("tts", TtsConfig, serve))
