"""Runs one inference worker: `python -m services.inference_worker`."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from services.common.config import ConfigError
from services.common.dialogue_client import DialogueClient
from services.common.entry import complain, configured
from services.common.identity import identity_of
from services.common.server import MAX_MESSAGE_BYTES, ServiceHost
from services.common.tasks import cancel_and_wait, spawn
from services.common.threads import on_thread
from services.common.tts_client import TtsClient
from services.inference_worker import metrics
from services.inference_worker.config import RELAY, WorkerConfig
from services.inference_worker.model import loading
from services.inference_worker.model.errors import DeviceFailedError, ModelError
from services.inference_worker.model.layout import largest_frame_pixels
from services.inference_worker.model.loading import Loading
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.fallback import Fallback
from services.inference_worker.serving.front import Front
from services.inference_worker.serving.servicer import InferenceServicer
from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

if TYPE_CHECKING:  # a relay needs no torch, and has none where it runs alone
    from services.inference_worker.engine.thread import Engine

log = logging.getLogger(__name__)

T = TypeVar("T")

# The device thread gives the GIL up in every kernel and wants it back after; by default whoever
# has it then may keep it for 5 ms.
GIL_SWITCH_S = 0.0002

EXIT_DEVICE_FAILED = 3


async def serve(config: WorkerConfig) -> bool:
    """Serve until SIGTERM; gives whether a model was ready by then.

    Health says SERVING once the engine is warm; until then Describe tells how far the model is.
    Raises ModelError or ConfigError for a model that cannot be served, DeviceFailedError when the
    device ends the worker.
    """
    from services.inference_worker.device.meter import meter_of, watch

    name = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    # Before there is a model to ask: the largest frames that any family takes.
    frame_bytes = 3 * largest_frame_pixels(config.frame_pixels)
    identity = identity_of(config)
    host = ServiceHost(
        name="inference_worker",
        config=config,
        full_names=(name,),
        max_message_bytes=frame_bytes + MAX_MESSAGE_BYTES,
        identity=identity,
    )
    progress = Loading()
    front = Front(config.model, config.pool, progress)
    add_InferenceServiceServicer_to_server(front, host.server)
    await host.start()
    history = (
        DialogueClient(config.dialogue, metrics.ROUNDS, identity=identity)
        if config.dialogue
        else None
    )
    speech = TtsClient(config.tts, identity=identity) if config.tts else None
    fallback = Fallback(config, identity) if config.fallback_model else None
    loop = asyncio.get_running_loop()
    engine: Engine | None = None
    watching: asyncio.Task[None] | None = None
    try:
        # On a thread that is not waited for: a worker that is told to end waits for no download.
        loads = on_thread(_load, config, progress, name="loading")
        engine = await _unless_stopped(host, loads)
        if engine is not None:
            answerer = Answerer(
                engine=engine,
                model=engine.model,
                history=history,
                speech=speech,
                question_tokens=config.question_tokens,
                history_rounds=config.history_rounds,
                withholds=config.withholds,
                unsure_below=config.unsure_below,
            )
            if fallback is not None:
                fallback.start()
            front.servicer = InferenceServicer(engine, answerer, config, fallback)
            # Without its device thread a worker ends, so that it is started again.
            engine.ended.add_done_callback(lambda _: loop.call_soon_threadsafe(host.stopping.set))
            gc.collect()
            gc.freeze()  # the libraries' objects are never garbage; a look through them stops all
            log.info("warm", extra={"model": engine.model.spec.name})
            meter = meter_of(engine.device)
            watching = spawn(watch(meter), name="watch device") if meter else None
        await host.run(front.drain)
        if engine is not None and engine.failure is not None:
            raise DeviceFailedError("the worker ends for want of its device") from engine.failure
        return engine is not None
    except BaseException:
        await host.stop()
        raise
    finally:
        await cancel_and_wait(watching)
        for peer in (fallback, history, speech):
            if peer is not None:
                await peer.aclose()
        if engine is not None:
            engine.stop()


def _load(config: WorkerConfig, progress: Loading) -> "Engine":
    """The warm engine. In a thread of its own: it takes seconds to minutes."""
    from services.inference_worker.assembly import build_engine

    engine = build_engine(config, progress)
    progress.begin(loading.WARMING)
    engine.start().result()
    return engine


async def _unless_stopped(host: ServiceHost, work: Coroutine[Any, Any, T]) -> T | None:
    """Result of `work`; None when the worker is told to stop before."""
    working = asyncio.create_task(work, name="loading")
    stopping = asyncio.create_task(host.stopping.wait(), name="stopping")
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return working.result() if working.done() else None


def main() -> None:
    try:
        config = configured("inference_worker", WorkerConfig)
        if config.model.startswith(RELAY):
            from services.inference_worker.relay.service import serve as serve_relay

            asyncio.run(serve_relay(config))
            return
        sys.setswitchinterval(GIL_SWITCH_S)
        if config.edge:  # the hub's client reads them when it is imported
            os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if not asyncio.run(serve(config)):
            os._exit(0)  # the thread that loads is not waited for
    except (ConfigError, ModelError) as error:
        sys.exit(complain("inference_worker", error))
    except DeviceFailedError as error:
        print(f"inference_worker: {error}: {error.__cause__}", file=sys.stderr)
        sys.exit(EXIT_DEVICE_FAILED)


if __name__ == "__main__":
    main()
