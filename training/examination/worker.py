"""Examines through the worker's gRPC service, with the gateway's own feed before it."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from services.common.channels import CHANNEL_OPTIONS
from services.common.errors import ErrorInterceptor
from services.gateway.frames.frame_counts import FrameCounts
from services.gateway.frames.sampler import SampledFrame
from services.gateway.sessions.frame_feed import FrameFeed
from services.gateway.workers.placement import Placement
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import Workers
from services.inference_worker.config import WorkerConfig
from services.inference_worker.engine.thread import Engine
from services.inference_worker.model.family import Round
from services.inference_worker.serving.answering import Answerer
from services.inference_worker.serving.servicer import InferenceServicer
from services.inference_worker.serving.watching import score
from sightline.v1 import dialogue_pb2, gateway_pb2, inference_pb2
from sightline.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from training.answerers import kept_rounds
from training.rendering import Pixels
from training.world.question import Question

_TIMEOUT_S = 120.0
_POLL_S = 0.001
T = TypeVar("T")


class WorkerAnswerer:
    """Serves an engine that is started on a port of its own, and streams to it as a gateway does.

    `change_worker` makes the worker forget the session. The feed opens it anew and replays the
    kept window, as it does when a worker was replaced.
    """

    def __init__(self, engine: Engine, config: WorkerConfig, max_tokens: int) -> None:
        self._engine = engine
        self._config = config
        self._max_tokens = max_tokens
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="worker", daemon=True)
        self._thread.start()
        self._histories: dict[str, list[Round]] = {}
        self._window = 0
        self._feed: FrameFeed | None = None
        self._counts = FrameCounts()
        self._session = ""
        self._frames: asyncio.Queue[SampledFrame] = asyncio.Queue()
        self._partial: list[SampledFrame] = []
        self._pushed = 0
        logging.getLogger(FrameFeed.__module__).setLevel(logging.ERROR)  # it is broken on purpose
        self._run(self._serve())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_TIMEOUT_S)

    async def _serve(self) -> None:
        config, engine = self._config, self._engine
        answerer = Answerer(
            engine=engine,
            model=engine.model,
            history=_Histories(self._histories),
            speech=None,
            question_tokens=config.question_tokens,
            history_rounds=config.history_rounds,
        )
        self._server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=CHANNEL_OPTIONS)
        servicer = InferenceServicer(engine, answerer, config)
        add_InferenceServiceServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._workers = _OneWorker([f"127.0.0.1:{port}"])
        (self._worker,) = self._workers.all()
        await self._worker.describe()

    def stop(self) -> None:
        """End the service; the engine goes on."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._workers.aclose()
        await self._server.stop(grace=None)

    # Answerer

    def open(self, window_segments: int = 0) -> None:
        self._session = f"examination over gRPC {next(self._numbers)}"
        self._window = window_segments
        self._partial.clear()
        self._pushed = 0

    def push(self, frame: Pixels, capture_time_ns: int, missing: int = 0) -> None:
        height, width = frame.shape[:2]
        self._partial.append(
            SampledFrame(
                frame.tobytes(),
                width,
                height,
                capture_time_ns,
                "arrival",
                time.monotonic(),
                missing=missing,
            )
        )
        if len(self._partial) == self._engine.model.spec.tubelet:
            self.settle()

    def settle(self) -> None:
        frames, self._partial = self._partial, []
        if frames:
            self._run(self._carry(frames))

    async def _carry(self, frames: list[SampledFrame]) -> None:
        if self._feed is None:
            spec = self._engine.model.spec
            placement = Placement(
                self._workers,
                self._session,
                window_segments=self._window,
                max_pixels=frames[0].width * frames[0].height if spec.size_factor else 0,
                grace_s=_TIMEOUT_S,
                open_timeout_s=_TIMEOUT_S,
            )
            self._frames, self._counts = asyncio.Queue(), FrameCounts()
            self._feed = FrameFeed(
                placement,
                self._frames.get,
                lambda: [],  # what waits is sent in its turn
                lambda: 0,
                self._counts,
                window_frames=(self._window or spec.window_segments) * spec.tubelet,
                delivery="lossless",
                on_moving=lambda: None,
                on_understood=lambda age_s, step_s: None,
            )
            self._feed.start(await placement.open())
        for frame in frames:
            self._frames.put_nowait(frame)
        self._pushed += len(frames)
        await _until(lambda: self._counts.processed >= self._pushed)

    def ask(self, questions: Sequence[Question]) -> list[str]:
        self._first_picture()
        return self._run(self._ask(questions))

    async def _ask(self, questions: Sequence[Question]) -> list[str]:
        return list(await asyncio.gather(*(self._answer(question) for question in questions)))

    async def _answer(self, question: Question) -> str:
        turn = f"turn-{next(self._numbers)}"
        self._histories[turn] = kept_rounds(question, self._config.history_rounds)
        request = inference_pb2.AnswerRequest(
            session_id=self._session,
            conversation=turn,
            question=gateway_pb2.Question(
                turn=turn, text=question.text, max_tokens=self._max_tokens
            ),
        )
        said = ""
        async for event in self._worker.stub.Answer(request):
            if event.WhichOneof("event") == "done":
                said = event.done.text
        del self._histories[turn]
        return said

    def scores(self, conditions: Sequence[str]) -> list[float]:
        """Scores as WatchSession asks for them; that call looks by the wall clock, not at every
        frame."""
        self._first_picture()
        return self._run(self._scores(conditions))

    async def _scores(self, conditions: Sequence[str]) -> list[float]:
        words = [self._engine.model.watch_tokens(condition) for condition in conditions]
        found = await asyncio.gather(*(score(self._engine, self._session, w) for w in words))
        return [probability for probability, _ in found]

    def _first_picture(self) -> None:
        """Nobody is asked before there is a picture."""
        if self._feed is None:
            self.settle()

    def change_worker(self) -> None:
        self._first_picture()
        self._run(self._forget())

    async def _forget(self) -> None:
        feed = self._feed
        assert feed is not None
        request = inference_pb2.ReleaseSessionRequest(session_id=self._session)
        await self._worker.stub.ReleaseSession(request)
        await _until(lambda: not feed.connected)
        await _until(lambda: feed.connected and not feed.window.num_waiting)

    def close(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            self._run(feed.aclose())


async def _until(holds: Callable[[], bool]) -> None:
    """Polls: the feed tells nobody of its progress."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


class _OneWorker(Workers):
    """One worker that is always asked, whatever it last reported."""

    async def candidates(self, model: str = "") -> Iterator[Worker]:
        return iter(self.all())


class _Histories:
    """Store in which the worker finds a conversation's earlier rounds. Nothing is kept."""

    available = True

    def __init__(self, histories: dict[str, list[Round]]) -> None:
        self._histories = histories

    async def context(
        self, conversation: str, rounds: int, *, before: str = ""
    ) -> list[dialogue_pb2.Round] | None:
        found = self._histories[conversation]
        return [
            dialogue_pb2.Round(question=round_.question, answer=round_.answer)
            for round_ in found[max(len(found) - rounds, 0) :]
        ]

    def append(self, conversation: str, **finished: object) -> "asyncio.Future[bool]":
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        kept.set_result(True)
        return kept
