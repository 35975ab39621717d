"""Description of this server, in one message: GetServerInfo, and /api/info for browsers."""

import asyncio
import time
from collections.abc import Sequence

from services.common import checks
from services.common.progress import percent_of, words_of
from services.gateway.api.addresses import Addresses
from services.gateway.api.conversations import Conversations
from services.gateway.api.speaker import Speaker
from services.gateway.auth.caller import ANYBODY, Caller
from services.gateway.config import GatewayConfig
from services.gateway.sessions.labels import MAX_LABELS
from services.gateway.sources.whip.ice import parse_ice_server
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import Workers
from sightline.errors import SightlineError
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.version import CONTRACT_VERSION, __version__

VOICES_S = 10.0  # that an answer to what there is to speak with is good for
VOICES_PATIENCE_S = 1.0


class ServerInfo:
    """Puts the message together whenever somebody asks. One event loop."""

    def __init__(
        self,
        config: GatewayConfig,
        workers: Workers,
        speaker: Speaker,
        conversations: Conversations,
        addresses: Addresses,
        sign_in: str = "",
    ) -> None:
        """sign_in: what callers must bring, "" or "token"."""
        self._config = config
        self._workers = workers
        self._speaker = speaker
        self._conversations = conversations
        self._addresses = addresses
        self._sign_in = sign_in
        self._voices = gateway_pb2.VoicesResponse()
        self._asked_s = float("-inf")

    async def message(self, caller: Caller = ANYBODY) -> gateway_pb2.GetServerInfoResponse:
        """Everything, for who has signed in or need not; for others, what they need for it."""
        config, addresses = self._config, self._addresses
        if self._sign_in and not caller.signed_in:
            return gateway_pb2.GetServerInfoResponse(
                version=__version__, contract_version=CONTRACT_VERSION, sign_in=self._sign_in
            )
        voices = await self._known_voices()
        return gateway_pb2.GetServerInfoResponse(
            version=__version__,
            contract_version=CONTRACT_VERSION,
            sign_in=self._sign_in,
            models=models_of(self._workers.all()),
            limits=gateway_pb2.Limits(
                sessions=config.max_sessions,
                viewers_per_session=config.max_viewers,
                questions_in_flight=config.max_questions,
                watches=config.max_watches,
                question_bytes=checks.MAX_QUESTION_BYTES,
                answer_tokens=checks.MAX_ANSWER_TOKENS,
                labels=MAX_LABELS,
            ),
            speech=self._speaker.configured,
            voice=config.asr is not None,
            recording_s=config.recording_s,
            rules=config.of_rules() is not None,
            voices=voices.voices,
            default_voice=voices.default_voice,
            conversations=self._conversations.configured,
            grpc_port=addresses.grpc,
            rtmp_url=addresses.rtmp,
            whip_url=f"{addresses.http}/whip",
            ice_servers=[_ice_server(url) for url in config.ice_servers],
        )

    async def _known_voices(self) -> gateway_pb2.VoicesResponse:
        """The voices, asked for now and then: pages ask for all of this every few seconds."""
        now_s = time.monotonic()
        if self._speaker.configured and now_s - self._asked_s >= VOICES_S:
            self._asked_s = now_s  # before the call: others are told what was known
            try:
                async with asyncio.timeout(VOICES_PATIENCE_S):
                    self._voices = await self._speaker.voices()
            except (SightlineError, TimeoutError):
                self._voices = gateway_pb2.VoicesResponse()
        return self._voices


def models_of(workers: Sequence[Worker]) -> list[gateway_pb2.Model]:
    """The models of these workers: those that are ready first, each once, in the order in which
    discovery names their workers."""
    ready: dict[str, gateway_pb2.Model] = {}
    loading: dict[str, gateway_pb2.Model] = {}
    for worker in sorted(workers, key=lambda worker: worker.rank):
        description = worker.description
        if description is None or worker.leaving:
            continue
        if description.HasField("loading"):
            loading.setdefault(description.model, _loading(description))
        elif worker.answering:
            model = ready.setdefault(description.model, _ready(description))
            counted: list[gateway_pb2.Model | gateway_pb2.Pool] = [model]
            if description.pool:
                counted.append(_pool(model, description.pool))
            for each in counted:
                each.workers += 1
                each.max_sessions += worker.load.max_sessions or description.max_sessions
                each.free_sessions += worker.free_sessions
    return [*ready.values(), *(model for name, model in loading.items() if name not in ready)]


def _ready(description: inference_pb2.ModelDescription) -> gateway_pb2.Model:
    return gateway_pb2.Model(
        name=description.model,
        card=description.card,
        ready=True,
        frame_width=description.frame_width,
        frame_height=description.frame_height,
        tubelet=description.tubelet,
        window=description.window_segments,
        max_window=description.max_window_segments,
        preferred_fps=description.preferred_fps,
        dtype=description.dtype,
        device=description.device,
    )


def _pool(model: gateway_pb2.Model, name: str) -> gateway_pb2.Pool:
    """The model's pool of this name, added where it is the first word of it."""
    found = next((pool for pool in model.pools if pool.name == name), None)
    return model.pools.add(name=name) if found is None else found


def _loading(description: inference_pb2.ModelDescription) -> gateway_pb2.Model:
    """Progress of a model that is not ready: in numbers, and in words."""
    state = description.loading
    loading = gateway_pb2.ModelLoading(
        text=words_of(description),
        percent=percent_of(state),
        bytes_done=state.bytes_done,
        bytes_total=state.bytes_total,
        eta_s=state.eta_s,
    )
    return gateway_pb2.Model(name=description.model, loading=loading)


def _ice_server(url: str) -> gateway_pb2.IceServer:
    parts = parse_ice_server(url)
    return gateway_pb2.IceServer(
        urls=[parts["urls"]],
        username=parts.get("username", ""),
        credential=parts.get("credential", ""),
    )
