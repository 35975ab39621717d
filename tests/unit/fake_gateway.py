"""A gateway of few lines behind a Unix socket: what the SDK's tests talk to.

It keeps the contract's promises about sessions, credit, idempotent turns and resumed lines, and
breaks connections when told to. Answers come word by word; `pause_after` holds one in the middle
until `go_on` is set.
"""

import asyncio
import contextlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import grpc

from sightline.errors import NotFoundError, SightlineError
from sightline.status import DETAILS, details_bytes
from sightline.v1 import gateway_pb2 as pb
from sightline.v1 import gateway_pb2_grpc
from sightline.v1.dialogue_pb2 import (
    DeleteConversationResponse,
    ListRatedResponse,
    RatedRound,
    RateTurnResponse,
    Round,
)

ANSWER = "a red circle moved left"
CREDIT = 3


class Line:
    """One conversation's events and the tasks that write them."""

    def __init__(self, handle: str, conversation: str) -> None:
        self.handle = handle
        self.conversation = conversation
        self.events: list[pb.ServerEvent] = []
        self.changed = asyncio.Event()
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, **event: Any) -> None:
        self.events.append(pb.ServerEvent(sequence=len(self.events) + 1, **event))
        self.changed.set()


class FakeGateway(gateway_pb2_grpc.SightlineServiceServicer):
    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sl")
        self.address = f"unix:{self.folder.name}/s"
        self.server: grpc.aio.Server | None = None
        self.sessions: dict[str, pb.Session] = {}
        self.keys: dict[str, str] = {}
        self.lines: dict[str, Line] = {}
        self.starts: list[pb.Start] = []
        self.asked: list[pb.Question] = []
        self.memory: list[pb.Recollection] = []  # that answers are made of
        self.watched: list[pb.Watch] = []
        self.unwatched: list[str] = []
        self.pushed: list[pb.PushFramesRequest] = []
        self.most_in_flight = 0
        self.calls: dict[str, int] = {}
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        self.requests: list[str] = []  # ids of CreateSession's
        self.options: list[pb.SessionOptions] = []
        self.answered_by = ""
        self.rounds: dict[str, list[Round]] = {}
        self.updates: list[pb.UpdateSessionRequest] = []
        self.answers = [ANSWER]
        self.pause_after: int | None = None
        self.restart_at: int | None = None  # the word before which an answer's worker is lost
        self.kept: bool | None = None
        self.tool_calls: list[list[pb.ToolCall]] = []  # of questions with tools, in order
        self.paused = asyncio.Event()
        self.go_on = asyncio.Event()
        self.break_lines = asyncio.Event()
        self.draining = False  # questions are left to the next server
        self.refuse_pictures = False
        self.break_push_at = 0  # break the push with this frame, once
        self._ids = itertools.count(1)

    async def start(self) -> None:
        self.server = grpc.aio.server()
        gateway_pb2_grpc.add_SightlineServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(self.address)
        await self.server.start()

    async def stop(self) -> None:
        for line in self.lines.values():
            for task in line.tasks.values():
                task.cancel()
        if self.server is not None:
            await self.server.stop(None)
            self.server = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address.removeprefix("unix:"))

    async def aclose(self) -> None:
        await self.stop()
        self.folder.cleanup()

    def break_line(self) -> None:
        """Every line open now breaks as a lost connection does."""
        self.break_lines.set()
        self.break_lines = asyncio.Event()

    def forget_lines(self) -> None:
        """As if another gateway answered: conversations are known, lines are not."""
        for line in self.lines.values():
            for task in line.tasks.values():
                task.cancel()
        self.lines.clear()

    async def _maybe_fail(self, method: str, context: Any) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1
        if waiting := self.failures.get(method):
            await context.abort(waiting.pop(0), f"{method} was told to fail")

    async def _find(self, session: str, context: Any) -> pb.Session:
        for message in self.sessions.values():
            if session in (message.id, message.name):
                return message
        await context.abort(grpc.StatusCode.NOT_FOUND, f"no session called {session!r}")
        raise AssertionError

    async def CreateSession(self, request: Any, context: Any) -> pb.Session:
        self.requests.append(request.request_id)
        self.options.append(request.options)
        await self._maybe_fail("CreateSession", context)
        number = next(self._ids)
        message = pb.Session(
            id=f"s{number}",
            name=request.options.name or f"session-{number}",
            source=request.source,
            state=pb.SESSION_STATE_WAITING,
            delivery=request.options.delivery,
            fps=request.options.fps or 8,
            stats=pb.SessionStats(frames_processed=1 if request.source else 0),
            labels=request.options.labels,
            grace_s=request.options.grace_s if request.options.HasField("grace_s") else 60,
        )
        self.sessions[message.id] = message
        self.keys[message.id] = request.push.key or "generated"
        reply = pb.Session()
        reply.CopyFrom(message)
        if request.HasField("push"):
            reply.key = self.keys[message.id]
            reply.rtmp_url = f"rtmp://here/live/{reply.key}"
        return reply

    async def ListSessions(self, request: Any, context: Any) -> pb.ListSessionsResponse:
        """Two at a time, so that pages are always turned."""
        await self._maybe_fail("ListSessions", context)
        start = int(request.page_token or 0)
        found = [
            each
            for each in self.sessions.values()
            if dict(request.labels).items() <= dict(each.labels).items()
        ]
        more = str(start + 2) if len(found) > start + 2 else ""
        return pb.ListSessionsResponse(sessions=found[start : start + 2], next_page_token=more)

    async def UpdateSession(self, request: Any, context: Any) -> pb.Session:
        await self._maybe_fail("UpdateSession", context)
        self.updates.append(request)
        session = await self._find(request.session, context)
        for name in ("name", "fps", "window", "grace_s"):
            if request.HasField(name):
                setattr(session, name, getattr(request, name))
        if request.HasField("listen"):
            session.listens = request.listen
        return session

    async def GetConversation(self, request: Any, context: Any) -> pb.GetConversationResponse:
        await self._maybe_fail("GetConversation", context)
        if request.conversation not in self.rounds:
            await self.refuse(context, NotFoundError("gone", reason="CONVERSATION_NOT_FOUND"))
        start = int(request.page_token or 0)
        kept = self.rounds[request.conversation]
        more = str(start + 2) if len(kept) > start + 2 else ""
        return pb.GetConversationResponse(rounds=kept[start : start + 2], next_page_token=more)

    async def DeleteConversation(self, request: Any, context: Any) -> DeleteConversationResponse:
        existed = self.rounds.pop(request.conversation, None) is not None
        return DeleteConversationResponse(existed=existed)

    async def RateTurn(self, request: Any, context: Any) -> RateTurnResponse:
        for each in self.rounds[request.conversation]:
            if each.turn == request.turn:
                each.rating, each.better = request.rating, request.better
        return RateTurnResponse()

    async def ListRated(self, request: Any, context: Any) -> ListRatedResponse:
        """A page a conversation."""
        names = sorted(self.rounds)
        at = int(request.page_token or 0)
        rated = [
            RatedRound(conversation=names[at], session="s-1", round=each)
            for each in self.rounds[names[at]]
            if each.rating
        ]
        more = str(at + 1) if at + 1 < len(names) else ""
        return ListRatedResponse(rounds=rated, next_page_token=more)

    async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
        await self._maybe_fail("GetServerInfo", context)
        card = pb.ModelCard(summary="it sees circles", can=["red circles"], licence="Apache-2.0")
        ready = pb.Model(name="builtin", ready=True, card=card, max_sessions=4, free_sessions=3)
        loading = pb.Model(name="big", loading=pb.ModelLoading(text="Loading big: 41 %"))
        return pb.GetServerInfoResponse(
            version="0.1.0",
            contract_version="1.1",
            models=[ready, loading],
            limits=pb.Limits(question_bytes=4096),
        )

    async def refuse(self, context: Any, error: SightlineError) -> None:
        """As services refuse: with details in the status."""
        code, message = error.code, error.message
        encoded = details_bytes(code.value[0], message, error.reason, error.retry_after_s)
        await context.abort(code, message, ((DETAILS, encoded),))

    async def GetSession(self, request: Any, context: Any) -> pb.Session:
        await self._maybe_fail("GetSession", context)
        return await self._find(request.session, context)

    async def GetPicture(self, request: Any, context: Any) -> pb.GetPictureResponse:
        await self._find(request.session, context)
        return pb.GetPictureResponse(jpeg=b"\xff\xd8" + str(request.width).encode())

    async def GetTranscript(
        self, request: pb.GetTranscriptRequest, context: Any
    ) -> pb.GetTranscriptResponse:
        await self._find(request.session, context)
        said = pb.Said(text="A red circle.", start_ns=request.from_ns, end_ns=9, language="en")
        return pb.GetTranscriptResponse(said=[said])

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:
        await self._find(request.session, context)
        decisions = []
        for question in request.questions:
            options = question.choices or question.levels
            decided = pb.Decision(probability=0.25, value=options[0] if options else "")
            decided.probabilities.extend([1 / len(options)] * len(options) if options else [])
            decisions.append(decided)
        return pb.DecideResponse(decisions=decisions)

    async def DeleteSession(self, request: Any, context: Any) -> pb.DeleteSessionResponse:
        await self._maybe_fail("DeleteSession", context)
        session = await self._find(request.session, context)
        del self.sessions[session.id]
        return pb.DeleteSessionResponse()

    async def Speak(self, request: Any, context: Any) -> AsyncIterator[pb.AudioChunk]:
        await self._maybe_fail("Speak", context)
        for word in request.text.split():
            yield pb.AudioChunk(sample_rate=22050, pcm=word.encode())

    async def PushFrames(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        await self._maybe_fail("PushFrames", context)
        first = await anext(requests)
        session = await self._find(first.open.session, context)
        if first.open.key != self.keys[session.id]:
            refusal = pb.ErrorEvent(code="UNAUTHENTICATED", message="wrong key")
            yield pb.PushFramesResponse(error=refusal)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong key")
        self.pushed.append(first)
        received = understood = arrived = 0
        capture_ns = 0
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        yield pb.PushFramesResponse(credit=CREDIT)

        async def read() -> None:
            nonlocal arrived
            async for message in requests:
                arrived += not message.HasField("end")
                waiting.put_nowait(message)
            waiting.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while True:
                await asyncio.sleep(0)  # let the client run ahead, as far as it dares
                self.most_in_flight = max(self.most_in_flight, arrived - received)
                message = await waiting.get()
                if message is None or message.HasField("end"):
                    break
                self.pushed.append(message)
                received += 1
                if self.refuse_pictures:
                    reason = f"frame {received} is bad"
                    refusal = pb.ErrorEvent(code="INVALID_ARGUMENT", message=reason)
                    yield pb.PushFramesResponse(error=refusal)
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, reason)
                if received == self.break_push_at:
                    self.break_push_at = 0
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
                understood += 1
                capture_ns = message.packet.capture_ns or message.frame.capture_ns
                session.stats.frames_processed = understood
                session.state = pb.SESSION_STATE_LIVE
                yield pb.PushFramesResponse(
                    received=received,
                    understood=understood,
                    understood_capture_ns=capture_ns,
                    credit=CREDIT,
                )
        finally:
            reader.cancel()

    async def Voices(self, request: Any, context: Any) -> pb.VoicesResponse:
        await self._maybe_fail("Voices", context)
        voices = [pb.Voice(id="de", language="de-DE", engine="espeak-ng", sample_rate=22050)]
        voices += [pb.Voice(id="en-us", language="en-US", engine="espeak-ng", sample_rate=22050)]
        return pb.VoicesResponse(voices=voices, default_voice="en-us")

    async def Converse(self, requests: Any, context: Any) -> AsyncIterator[pb.ServerEvent]:
        await self._maybe_fail("Converse", context)
        start = (await anext(requests)).start
        self.starts.append(start)
        session = await self._find(start.session, context)
        line = self.lines.get(start.resume_handle)
        resumed = "line" if line else "conversation" if start.conversation else ""
        if line is None:
            number = next(self._ids)
            line = Line(f"handle-{number}", start.conversation or f"c{number}")
            self.lines[line.handle] = line
            line.add(started=pb.Started())  # keeps its place in the sequence
        yield pb.ServerEvent(
            sequence=0 if resumed == "line" else 1,
            started=pb.Started(
                session=session,
                conversation=line.conversation,
                resume_handle=line.handle,
                resumed=resumed,
            ),
        )
        position = start.last_sequence if resumed == "line" else 1
        reader = asyncio.create_task(self._listen(requests, line, start.speech))
        broken = asyncio.create_task(self.break_lines.wait())
        try:
            while True:
                while position < len(line.events):
                    yield line.events[position]
                    position += 1
                line.changed.clear()
                changed = asyncio.create_task(line.changed.wait())
                await asyncio.wait([changed, broken], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if broken.done():
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
        finally:
            reader.cancel()
            broken.cancel()

    async def _listen(self, requests: Any, line: Line, speech: bool) -> None:
        async for event in requests:
            kind = event.WhichOneof("event")
            if kind == "ask":
                self.asked.append(event.ask)
                if self.draining:
                    refusal = pb.ErrorEvent(
                        turn=event.ask.turn, code="UNAVAILABLE", reason="DRAINING"
                    )
                    line.add(error=refusal)
                    continue
                if event.ask.turn not in line.tasks:
                    work = self._answer(line, event.ask, speech)
                    line.tasks[event.ask.turn] = asyncio.create_task(work)
            elif kind == "watch":
                self.watched.append(event.watch)
                line.changed.set()
            elif kind == "unwatch":
                self.unwatched.append(event.unwatch.watch)
            elif kind == "cancel":
                line.tasks[event.cancel.turn].cancel()
                done = pb.AnswerDone(
                    turn=event.cancel.turn, text="a red", finish_reason=pb.FINISH_REASON_CANCELLED
                )
                line.add(answer_done=done)

    async def _answer(self, line: Line, question: pb.Question, speech: bool) -> None:
        turn = question.turn
        if question.text == "fail":
            error = pb.ErrorEvent(
                turn=turn,
                code="RESOURCE_EXHAUSTED",
                message="no room",
                reason="MODEL_FULL",
                retry_after_s=2.5,
            )
            line.add(error=error)
            return
        text = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        line.add(answer_started=pb.AnswerStarted(turn=turn))
        resumed, position = "", -1
        while (position := position + 1) < len(text.split()):
            if position == self.restart_at:
                self.restart_at, resumed, position = None, "window", -1
                text = self.answers.pop(0)
                line.add(answer_started=pb.AnswerStarted(turn=turn, restarted=True))
                continue
            word = text.split()[position]
            if position == self.pause_after:
                self.paused.set()
                await self.go_on.wait()
            delta = word if position == 0 else " " + word
            line.add(text_delta=pb.TextDelta(turn=turn, text=delta))
            if speech:
                audio = pb.AudioChunk(sample_rate=22050, pcm=word.encode())
                line.add(audio_chunk=pb.SpeechChunk(turn=turn, audio=audio))
        done = pb.AnswerDone(
            turn=turn,
            text=text,
            finish_reason=pb.FINISH_REASON_STOP,
            frames_seen=30,
            newest_frame_age_ms=120,
            resumed=resumed,
            kept=self.kept,
            tool_calls=self.tool_calls.pop(0) if self.tool_calls and question.tools else (),
            memory=self.memory,
            answered_by=self.answered_by,
        )
        line.add(answer_done=done)
