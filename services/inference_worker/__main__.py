"""Runs one inference worker: `python -m services.inference_worker`."""

import asyncio
import gc
import logging
import sys

from services.common.config import ConfigError
from services.common.log import set_up_logging
from services.common.server import ServiceHost
from services.inference_worker.answer import Answerer
from services.inference_worker.assembly import build_engine
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine import Engine
from services.inference_worker.errors import DeviceFailedError, ModelError
from services.inference_worker.peers import DialoguePeer, SpeechPeer
from services.inference_worker.servicer import InferenceServicer
from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

log = logging.getLogger(__name__)

# The device thread gives the GIL up in every kernel and wants it back after; by default whoever
# has it then may keep it for 5 ms.
GIL_SWITCH_S = 0.0002


EXIT_CONFIG = 2
EXIT_DEVICE_FAILED = 3


async def serve(config: WorkerConfig, engine: Engine) -> None:
    """Serve until SIGTERM. Health says SERVING once the engine is warm. Raises what the device
    failed of, if that ends the worker."""
    name = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    host = ServiceHost(name="inference_worker", config=config, full_names=(name,))
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
    await host.run(servicer.drain)
    for peer in (history, speech):
        if peer is not None:
            await peer.aclose()
    engine.stop()
    if engine.failure is not None:
        raise DeviceFailedError("the worker ends for want of its device") from engine.failure


def main() -> None:
    try:
        config = WorkerConfig.from_env()
        set_up_logging("inference_worker", config.log_level)
        sys.setswitchinterval(GIL_SWITCH_S)
        asyncio.run(serve(config, build_engine(config)))
    except (ConfigError, ModelError) as error:
        print(f"inference_worker: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except DeviceFailedError as error:
        print(f"inference_worker: {error}: {error.__cause__}", file=sys.stderr)
        sys.exit(EXIT_DEVICE_FAILED)


if __name__ == "__main__":
    main()
