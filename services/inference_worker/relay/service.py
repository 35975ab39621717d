"""Service of a relay: the worker's calls, before a model server."""

import asyncio
import contextlib
import logging

from services.common.backoff import Backoff
from services.common.config import ConfigError
from services.common.dialogue_client import DialogueClient
from services.common.identity import identity_of
from services.common.server import MAX_MESSAGE_BYTES, ServiceHost
from services.common.tasks import cancel_and_wait, spawn
from services.common.tts_client import TtsClient
from services.inference_worker import metrics
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.admission import EngineLimits
from services.inference_worker.model.layout import largest_frame_pixels
from services.inference_worker.model.loading import Loading
from services.inference_worker.relay.address import RelayAddress
from services.inference_worker.relay.brain import BRANCH_TOKENS, RelayBrain
from services.inference_worker.relay.model import RelayModel
from services.inference_worker.relay.questions import Asking
from services.inference_worker.relay.upstream import Upstream
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.fallback import Fallback
from services.inference_worker.serving.front import Front
from services.inference_worker.serving.servicer import InferenceServicer
from sightline.errors import UnavailableError
from sightline.v1 import inference_pb2
from sightline.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

log = logging.getLogger(__name__)

LOOK_S = 5.0  # between two looks at a server that answers
MISSED = 2  # looks in a row that a server may miss


async def serve(config: WorkerConfig) -> None:
    """Serve until SIGTERM. Health says SERVING while the server answers GET /models. Raises
    ConfigError for an address, a key or a port that cannot be used."""
    address = RelayAddress.of(config)
    name = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
    host = ServiceHost(
        name="inference_worker",
        config=config,
        full_names=(name,),
        max_message_bytes=3 * largest_frame_pixels(config.frame_pixels) + MAX_MESSAGE_BYTES,
        identity=identity_of(config),
    )
    front = Front(address.model or "relay", config.pool, Loading())
    add_InferenceServiceServicer_to_server(front, host.server)
    await host.start()
    try:
        async with contextlib.AsyncExitStack() as parts:
            await _run(host, front, config, address, parts)
    except BaseException:
        await host.stop()
        raise


async def _run(
    host: ServiceHost,
    front: Front,
    config: WorkerConfig,
    address: RelayAddress,
    parts: contextlib.AsyncExitStack,
) -> None:
    """Wait for the model server, then serve. What is opened goes to `parts`, which closes it."""
    identity = identity_of(config)
    upstream = Upstream(address, config.relay_timeout_s)
    parts.push_async_callback(upstream.aclose)
    looking = asyncio.create_task(_first_look(upstream, address), name="relay:first look")
    stopping = asyncio.create_task(host.stopping.wait(), name="stopping")
    await asyncio.wait((looking, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not looking.done():
        await cancel_and_wait(looking)
        await host.run()
        return
    model = RelayModel(looking.result(), config.relay_frames, config.frame_pixels)
    limits = EngineLimits(
        max_sessions=config.max_sessions,
        frame_queue=config.frame_queue,
        branch_tokens=BRANCH_TOKENS,
        waiting_branches=config.waiting_questions,
        max_window_segments=max(config.max_window, config.relay_frames),
    )
    asking = Asking(upstream, model.spec.name)
    brain = RelayBrain(model, asking, limits, config.relay_concurrency)
    brain.start()
    parts.push_async_callback(brain.aclose)
    _count(brain)
    history = speech = fallback = None
    if config.dialogue:
        history = DialogueClient(config.dialogue, metrics.ROUNDS, identity=identity)
        parts.push_async_callback(history.aclose)
    if config.tts:
        speech = TtsClient(config.tts, identity=identity)
        parts.push_async_callback(speech.aclose)
    if config.fallback_model:
        fallback = Fallback(config, identity)
        fallback.start()
        parts.push_async_callback(fallback.aclose)
    answerer = Answerer(
        engine=brain,
        model=model,
        history=history,
        speech=speech,
        question_tokens=config.question_tokens,
        history_rounds=config.history_rounds,
        unsure_below=config.unsure_below,
    )
    front.servicer = InferenceServicer(brain, answerer, config, fallback)
    log.info("the model server answers", extra={"model": model.spec.name})
    pulse = spawn(_feel(host, upstream), name="relay:pulse")
    parts.push_async_callback(cancel_and_wait, pulse)
    await host.run(front.drain)


async def _first_look(upstream: Upstream, address: RelayAddress) -> str:
    """Name of the model that is asked, once the server answers. Raises ConfigError where none is
    named and the server has not just one."""
    backoff = Backoff(0.5, 10.0)
    while True:
        try:
            models = await upstream.models()
            break
        except UnavailableError as error:
            log.warning("the model server does not answer yet", extra={"reason": error.message})
            await asyncio.sleep(backoff.next_s())
    if address.model:
        if models and address.model not in models:
            log.warning("the model server does not list this model", extra={"model": address.model})
        return address.model
    if len(models) != 1:
        known = ", ".join(models[:8]) or "none"
        raise ConfigError(f"WORKER_MODEL must end with #model; the server has {known}")
    return models[0]


async def _feel(host: ServiceHost, upstream: Upstream) -> None:
    """Look now and then whether the server answers, and tell health."""
    missed = 0
    while not host.stopping.is_set():
        await asyncio.sleep(LOOK_S)
        try:
            await upstream.models()
        except UnavailableError as error:
            missed += 1
            if missed == MISSED and not host.stopping.is_set():
                log.error("the model server is away", extra={"reason": error.message})
                await host.set_serving(False)
            continue
        if missed >= MISSED and not host.stopping.is_set():
            log.info("the model server is back")
            await host.set_serving(True)
        missed = 0


def _count(brain: RelayBrain) -> None:
    metrics.WORKER.info(
        {
            "model": brain.model.spec.name,
            "device": brain.device_name,
            "dtype": brain.dtype_name,
            "kv_dtype": "none",
            "quantization": "none",
        }
    )
    metrics.REQUESTS_RUNNING.set_function(lambda: brain.snapshot().num_running)
    metrics.REQUESTS_WAITING.set_function(lambda: brain.snapshot().num_waiting)
    metrics.CAPACITY.set_function(lambda: brain.snapshot().capacity)
