"""The worker's door, open before its model is ready."""

from collections.abc import AsyncIterator
from typing import Any

from grpc.aio import ServicerContext

from services.common.protocol import PROTOCOL
from services.inference_worker.model.loading import Loading
from services.inference_worker.serving.servicer import InferenceServicer
from sightline.errors import UnavailableError
from sightline.v1 import gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import InferenceServiceServicer

Context = ServicerContext[Any, Any]


class Front(InferenceServiceServicer):
    """Tells how far the model is until `servicer` is there, which then answers every call."""

    def __init__(self, model: str, pool: str, progress: Loading) -> None:
        self.servicer: InferenceServicer | None = None
        self._model = model
        self._pool = pool
        self._progress = progress

    async def Describe(
        self, request: inference_pb2.DescribeRequest, context: Context
    ) -> inference_pb2.ModelDescription:
        if self.servicer is None:
            return inference_pb2.ModelDescription(
                model=self._model,
                pool=self._pool,
                loading=self._progress.state(),
                protocol_major=PROTOCOL[0],
                protocol_minor=PROTOCOL[1],
            )
        return await self.servicer.Describe(request, context)

    async def drain(self) -> None:
        if self.servicer is not None:
            await self.servicer.drain()

    # The interceptor takes what an async generator function would give

    def StreamFrames(
        self, request_iterator: AsyncIterator[inference_pb2.StreamFramesRequest], context: Context
    ) -> AsyncIterator[inference_pb2.StreamFramesResponse]:
        return self._ready.StreamFrames(request_iterator, context)

    def Answer(
        self, request: inference_pb2.AnswerRequest, context: Context
    ) -> AsyncIterator[inference_pb2.AnswerEvent]:
        return self._ready.Answer(request, context)

    def WatchSession(
        self, request: inference_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.WatchEvent]:
        return self._ready.WatchSession(request, context)

    def Load(
        self, request: inference_pb2.LoadRequest, context: Context
    ) -> AsyncIterator[inference_pb2.LoadReport]:
        return self._ready.Load(request, context)

    async def ScoreStatements(
        self, request: inference_pb2.ScoreStatementsRequest, context: Context
    ) -> inference_pb2.ScoreStatementsResponse:
        return await self._ready.ScoreStatements(request, context)

    async def Note(
        self, request: inference_pb2.NoteRequest, context: Context
    ) -> inference_pb2.NoteResponse:
        return await self._ready.Note(request, context)

    async def ResizeSession(
        self, request: inference_pb2.ResizeSessionRequest, context: Context
    ) -> inference_pb2.ResizeSessionResponse:
        return await self._ready.ResizeSession(request, context)

    async def ReleaseSession(
        self, request: inference_pb2.ReleaseSessionRequest, context: Context
    ) -> inference_pb2.ReleaseSessionResponse:
        return await self._ready.ReleaseSession(request, context)

    @property
    def _ready(self) -> InferenceServicer:
        if self.servicer is None:
            raise UnavailableError("the model is loading")
        return self.servicer
