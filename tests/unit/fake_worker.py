"""An inference worker of few lines behind a Unix socket: what the gateway's tests talk to.

It keeps the contract's promises about credit, acknowledgements, resumed sessions and answers, and
breaks them when told to. `understanding` holds frames back while it is clear; answers come word by
word and wait at `pause_after` until `go_on` is set.
"""

import asyncio
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from services.common.errors import ON_PURPOSE
from services.common.protocol import PROTOCOL
from sightline.reasons import Reason
from sightline.status import DETAILS, details_bytes
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import inference_pb2 as ipb
from sightline.v1 import inference_pb2_grpc

ANSWER = "a red circle moved left"
SIZE = 16
WINDOW = 4
QUEUE = 3


class FakeWorker(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, *, max_sessions: int = 4, model: str = "builtin", pool: str = "") -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sl")
        self.address = f"unix:{self.folder.name}/w"
        self.server: grpc.aio.Server | None = None
        self.max_sessions = max_sessions
        self.model, self.pool = model, pool
        self.busy_sessions = 0  # of other gateways
        self.pages: tuple[int, int, int] | None = None  # promised, in all, of one session
        self.draining = False
        self.full = False
        self.silent = False
        self.deaf = False  # to questions about its model
        self.loading: ipb.LoadingState | None = None  # its model is not ready
        self.protocol = PROTOCOL
        self.resized: list[ipb.ResizeSessionRequest] = []
        self.refuse_frames = False
        self.frames: dict[str, list[ipb.Frame]] = {}  # understood, by session
        self.most_in_flight = 0
        self.opened: list[tuple[ipb.OpenStream, bool]] = []
        self.released: list[str] = []
        self.asked: list[ipb.AnswerRequest] = []
        self.scored: list[ipb.ScoreStatementsRequest] = []
        self.scores: dict[str, float] = {}  # by statement; others have 0.5
        self.unreadable = ""  # a statement that it refuses
        self.watched: list[ipb.WatchRequest] = []
        self.blind = 0  # questions until it has frames again to answer them by
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        self.admitting = asyncio.Event()  # cleared: it says late that it has admitted a session
        self.admitting.set()
        self.understanding = asyncio.Event()
        self.understanding.set()
        self.answering = asyncio.Event()  # questions come to nothing while it is clear
        self.answering.set()
        self.answer = ANSWER
        self.word_s = 0.001  # what a spoken word lasts
        self.voice: Callable[[int], bytes] = lambda samples: bytes(2 * samples)  # 16 kHz
        self.degraded: list[str] = []
        self.strangeness = 0.0
        self.unsure = False
        self.remembered = " From memory: a blue square"  # said after what it is unsure of
        self.confidence: float | None = None
        self.kept: bool | None = None
        self.formed = False
        self.tool_calls: list[pb.ToolCall] = []
        self.speech_unavailable = False
        self.pause_after: int | None = None
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()
        self.break_at: int | None = None  # the word before which every answer ends
        self.cancelled_answers = 0
        self.watch_events: asyncio.Queue[pb.WatchEvent | grpc.StatusCode] = asyncio.Queue()
        self.calls: Counter[str] = Counter()
        self._streams: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        self.server = grpc.aio.server()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address.removeprefix("unix:"))

    async def restart(self, *, forget: bool) -> None:
        """Come back as a process that remembers nothing, or as a network that was away."""
        await self.stop()
        if forget:
            self.frames.clear()
        await self.start()

    def description(self) -> ipb.ModelDescription:
        if self.loading is not None:
            return ipb.ModelDescription(model=self.model, pool=self.pool, loading=self.loading)
        return ipb.ModelDescription(
            model=self.model,
            pool=self.pool,
            frame_width=SIZE,
            frame_height=SIZE,
            layouts=[ipb.PIXEL_LAYOUT_RGB24],
            tubelet=1,
            tokens_per_segment=16,
            window_segments=WINDOW,
            max_window_segments=64,
            preferred_fps=8,
            max_sessions=self.max_sessions,
            frame_queue=QUEUE,
            protocol_major=self.protocol[0],
            protocol_minor=self.protocol[1],
            card=pb.ModelCard(summary="it sees circles", can=["red circles"]),
        )

    async def Describe(self, request: ipb.DescribeRequest, context: Any) -> ipb.ModelDescription:
        self.calls["Describe"] += 1
        if self.deaf:
            await asyncio.Event().wait()
        return self.description()

    async def Load(self, request: ipb.LoadRequest, context: Any) -> AsyncIterator[ipb.LoadReport]:
        while True:
            promised, total, one = self.pages or (0, 0, 0)
            yield ipb.LoadReport(
                sessions=len(self.frames) + self.busy_sessions,
                max_sessions=self.max_sessions,
                draining=self.draining,
                kv_pages_promised=promised,
                kv_pages_total=total,
                kv_session_pages=one,
            )
            await (asyncio.Event().wait() if self.silent else asyncio.sleep(0.05))

    async def StreamFrames(
        self, requests: AsyncIterator[ipb.StreamFramesRequest], context: Any
    ) -> AsyncIterator[ipb.StreamFramesResponse]:
        await self._fail("StreamFrames", context)
        opening = (await anext(requests)).open
        resumed = opening.session_id in self.frames
        self.opened.append((opening, resumed))
        if not resumed and (self.full or len(self.frames) >= self.max_sessions):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the pool is full")
        understood = self.frames.setdefault(opening.session_id, [])
        await self.admitting.wait()
        yield ipb.StreamFramesResponse(opened=ipb.Opened(credit=QUEUE, resumed=resumed))
        waiting: asyncio.Queue[ipb.Frame | None] = asyncio.Queue()

        async def read() -> None:
            async for request in requests:
                waiting.put_nowait(request.frame)
                self.most_in_flight = max(self.most_in_flight, waiting.qsize())
            waiting.put_nowait(None)

        reader = asyncio.create_task(read())
        self._streams.add(reader)
        try:
            while True:
                await self.understanding.wait()
                frame = await waiting.get()
                if frame is None:
                    return
                if self.refuse_frames:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no turn")
                await self.understanding.wait()
                if understood and frame.capture_ns < understood[-1].capture_ns:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "back in time")
                understood.append(frame)
                ack = ipb.FrameAck(
                    sequence=frame.sequence,
                    capture_ns=frame.capture_ns,
                    latency_ms=5,
                    credit=QUEUE,
                    reused_segments=len(understood) * 3,
                    recomputed_segments=len(understood),
                    strangeness=self.strangeness,
                )
                yield ipb.StreamFramesResponse(ack=ack)
        finally:
            reader.cancel()
            self._streams.discard(reader)

    async def Answer(
        self, request: ipb.AnswerRequest, context: Any
    ) -> AsyncIterator[ipb.AnswerEvent]:
        self.asked.append(request)
        await self.answering.wait()
        await self._fail("Answer", context)
        if request.session_id not in self.frames:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such session")
        turn = request.question.turn
        finished = False
        try:
            seen = list(self.frames[request.session_id])
            newest_ns = seen[-1].capture_ns if seen else 0
            started = pb.AnswerStarted(turn=turn, last_capture_ns=newest_ns, formed=self.formed)
            yield ipb.AnswerEvent(started=started)
            if self.speech_unavailable:
                yield ipb.AnswerEvent(
                    speech_unavailable=ipb.SpeechUnavailable(reason="no TTS answers")
                )
            said = request.recall.said
            told = self.remembered if said else self.answer
            for index, word in enumerate(told.split()):
                if index == self.break_at:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                if index == self.pause_after:
                    self.paused.set()
                    await self.go_on.wait()
                text = word if index == 0 and not said else f" {word}"
                yield ipb.AnswerEvent(text_delta=pb.TextDelta(turn=turn, text=text))
                if request.speech:
                    pcm = self.voice(round(16_000 * self.word_s))
                    audio = pb.AudioChunk(sample_rate=16_000, pcm=pcm, text=word)
                    yield ipb.AnswerEvent(audio_chunk=pb.SpeechChunk(turn=turn, audio=audio))
            yield ipb.AnswerEvent(
                done=pb.AnswerDone(
                    turn=turn,
                    text=said + told,
                    unsure=self.unsure and not said,
                    finish_reason=pb.FINISH_REASON_STOP,
                    last_capture_ns=newest_ns,
                    frames_seen=len(seen),
                    degraded=self.degraded,
                    kept=False if request.ahead and self.kept is not None else self.kept,
                    confidence=self.confidence,
                    unfamiliar_picture=self.strangeness > 1,
                    tool_calls=self.tool_calls,
                )
            )
            finished = True
        finally:
            self.cancelled_answers += not finished

    async def WatchSession(
        self, request: ipb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchEvent]:
        self.watched.append(request)
        await self._fail("WatchSession", context)
        while True:
            event = await self.watch_events.get()
            if isinstance(event, grpc.StatusCode):
                await context.abort(event, "told to")
            else:
                yield pb.WatchEvent(
                    watch=request.watch.watch,
                    condition=request.watch.condition,
                    active=event.active,
                    score=event.score,
                    status=event.status if event.HasField("status") else None,
                )

    async def ScoreStatements(
        self, request: ipb.ScoreStatementsRequest, context: Any
    ) -> ipb.ScoreStatementsResponse:
        self.scored.append(request)
        await self._fail("ScoreStatements", context)
        if request.session_id not in self.frames:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such session")
        if self.unreadable in request.statements:
            context.set_trailing_metadata((ON_PURPOSE,))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a statement is too long")
        scores = [self.scores.get(text, 0.5) for text in request.statements]
        seen = self.frames[request.session_id]
        return ipb.ScoreStatementsResponse(
            probabilities=scores,
            prompt_tokens=7,
            frames_seen=3,
            last_capture_ns=seen[-1].capture_ns if seen else 0,
            strangeness=self.strangeness,
            cannot_tell=self.strangeness > 1,
        )

    async def ResizeSession(
        self, request: ipb.ResizeSessionRequest, context: Any
    ) -> ipb.ResizeSessionResponse:
        await self._fail("ResizeSession", context)
        if request.session_id not in self.frames:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such session")
        self.resized.append(request)
        return ipb.ResizeSessionResponse(window_segments=request.window_segments or WINDOW)

    async def ReleaseSession(
        self, request: ipb.ReleaseSessionRequest, context: Any
    ) -> ipb.ReleaseSessionResponse:
        self.released.append(request.session_id)
        self.frames.pop(request.session_id, None)
        return ipb.ReleaseSessionResponse()

    async def _fail(self, method: str, context: Any) -> None:
        self.calls[method] += 1
        if self.blind and method in ("Answer", "ScoreStatements"):
            self.blind -= 1
            code, message = grpc.StatusCode.FAILED_PRECONDITION, "no frame"
            details = details_bytes(int(code.value[0]), message, Reason.NO_FRAME_YET)
            await context.abort(code, message, (ON_PURPOSE, (DETAILS, details)))
        if self.failures.get(method):
            await context.abort(self.failures[method].pop(0), "told to", (ON_PURPOSE,))
