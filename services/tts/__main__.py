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

# As long as answers are: what a neural voice speaks first takes longer than the same later.
FIRST = "A red circle moves to the left."


async def serve(config: TtsConfig) -> None:
    """Serve until SIGTERM. SERVING once the engine has spoken a first sentence."""
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
        async with contextlib.aclosing(synthesis.speak(FIRST, engine.default_voice, 1.0)) as spoken:
            async for _ in spoken:
                pass
        await host.run(servicer.drain)
    finally:
        await synthesis.stop()


if __name__ == "__main__":
    sys.exit(run("tts", TtsConfig, serve))
