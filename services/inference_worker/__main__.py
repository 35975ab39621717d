"""Runs one inference worker: `python -m services.inference_worker`."""

import asyncio
import gc
import logging
import sys

from services.common.config import ConfigError
from services.common.log import set_up_logging
from services.common.server import MAX_MESSAGE_BYTES, ServiceHost
from services.common.tasks import cancel_and_wait, spawn
from services.inference_worker.answer import Answerer
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine import Engine
from services.inference_worker.errors import ModelError
from services.inference_worker.meter import meter_of, watch
from services.inference_worker.peers import DialoguePeer, SpeechPeer
from services.inference_worker.servicer import InferenceServicer
from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

log = logging.getLogger(__name__)

# The device thread gives the GIL up in every kernel and wants it back after; by default whoever
# has it then may keep it for 5 ms.
GIL_SWITCH_S = 0.0002


async def serve(config: WorkerConfig, engine: Engine) -> None:
    """Serve until SIGTERM. Health says SERVING once the engine is warm."""
    name = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    spec = engine.model.spec
    frame_bytes = 3 * max(spec.max_pixels, spec.layout.width * spec.layout.height)
    host = ServiceHost(
        name="inference_worker",
        config=config,
        full_names=(name,),
        max_message_bytes=frame_bytes + MAX_MESSAGE_BYTES,
    )
    history = DialoguePeer(config.dialogue) if config.dialogue else None
    speech = SpeechPeer(config.tts) if config.tts else None
    answerer = Answerer(
        engine=engine,
        model=engine.model,
        history=history,
        speech=speech,
        question_tokens=config.question_tokens,
        history_rounds=config.history_rounds,
    )
    servicer = InferenceServicer(engine, answerer, config)
    add_InferenceServiceServicer_to_server(servicer, host.server)
    await host.start()
    await asyncio.wrap_future(engine.start())
    loop = asyncio.get_running_loop()
    # A worker without its device thread ends, so that it is started again.
    engine.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(host.stopping.set))
    gc.collect()
    gc.freeze()  # the libraries' objects are never garbage; looking through them stops every thread
    log.info("warm", extra={"model": engine.model.spec.name})
    meter = meter_of(engine.core.runner.device)
    watching = spawn(watch(meter), name="watch device") if meter else None
    await host.run(servicer.drain)
    await cancel_and_wait(watching)
    for peer in (history, speech):
        if peer is not None:
            await peer.aclose()
    engine.stop()


def main() -> None:
    try:
        config = WorkerConfig.from_env()
        set_up_logging("inference_worker", config.log_level)
        sys.setswitchinterval(GIL_SWITCH_S)
        asyncio.run(serve(config, build_engine(config)))
    except (ConfigError, ModelError) as error:
        print(f"inference_worker: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
