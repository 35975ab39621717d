"""A session's diary: what is written of its moments, and that it is erased with the session."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest

from services.common.identity import Identity
from services.gateway.config import GatewayConfig
from services.gateway.frames.sampler import SampledFrame
from services.gateway.memory import diary as diary_module
from services.gateway.memory import memories as memories_module
from services.gateway.memory.diary import Diary
from services.gateway.memory.memories import Memories
from services.gateway.voice.transcript import Transcript
from sightline.errors import UnavailableError
from sightline.v1 import dialogue_pb2, inference_pb2
from sightline.v1 import gateway_pb2 as pb

NS = 1_000_000_000
LINES, PICTURES = pb.MEMORY_KIND_LINES, pb.MEMORY_KIND_PICTURES


class Journal:
    def __init__(self) -> None:
        self.kept: list[dialogue_pb2.Moment] = []
        self.forgotten: list[str] = []
        self.away = 0  # calls that fail

    async def keep(
        self, session: str, moment: dialogue_pb2.Moment
    ) -> dialogue_pb2.KeepMomentResponse:
        self._check()
        self.kept.append(moment)
        return dialogue_pb2.KeepMomentResponse(stored_bytes=1)

    async def forget(self, session: str) -> None:
        self._check()
        self.forgotten.append(session)

    async def aclose(self) -> None:
        pass

    def _check(self) -> None:
        if self.away:
            self.away -= 1
            raise UnavailableError("Redis is away")


class Refused(grpc.aio.AioRpcError):
    def __init__(self) -> None:
        metadata = grpc.aio.Metadata()
        super().__init__(grpc.StatusCode.UNAVAILABLE, metadata, metadata)


class Session:
    """As much of a session as a diary looks at."""

    id = "s"
    alive = True

    def __init__(self, memory: pb.MemoryKind = PICTURES) -> None:
        self.spec = SimpleNamespace(memory=memory, lossless=False)
        self.transcript: Transcript | None = None
        self.feed = SimpleNamespace(witness=None)
        self.worker = SimpleNamespace(
            stub=SimpleNamespace(Note=self._note), load=SimpleNamespace(device_busy=0.1)
        )
        self.lines = ["a red circle", "a blue square", "a green star"]
        self.refuses = False
        self.moved_on = asyncio.Event()
        self.asked = 0

    async def _note(self, request: Any, timeout: float) -> inference_pb2.NoteResponse:
        self.asked += 1
        if self.refuses:
            raise Refused
        return inference_pb2.NoteResponse(line=self.lines[self.asked - 1], embedding=b"12")

    async def wait_placed(self, timeout_s: float) -> bool:
        self.refuses = False
        self.moved_on = asyncio.Event()
        return True

    async def picture_of(self, capture_ns: int, width: int) -> bytes:
        return bytes(60_000 if width > 200 else 1000)

    def message(self) -> pb.Session:
        return pb.Session(id="s", memory=self.spec.memory)


async def show(diary: Diary, levels: list[int], *, scene_s: int = 8) -> None:
    """Scenes one after the other, each with a square of its own brightness."""
    await scenes(diary, levels, scene_s=scene_s)
    await diary.settle()


async def scenes(
    diary: Diary, levels: list[int], *, scene_s: int = 8, began_ns: int = 100 * NS
) -> int:
    """As `show`, from a time on, which is what is returned after them."""
    capture_ns = began_ns
    for level in levels:
        pixels = np.full((16, 16, 3), 30, np.uint8)
        pixels[4:10, 4:10] = level
        for _ in range(scene_s * 4):
            frame = SampledFrame(pixels.tobytes(), 16, 16, capture_ns, "arrival", 0.0)
            diary.see(frame)
            capture_ns += NS // 4
            await asyncio.sleep(0)
    return capture_ns


def diary_of(session: Session, journal: Journal) -> Diary:
    return Diary(cast(Any, session), cast(Any, journal), 15.0)


async def test_each_scene_is_kept_with_the_line_and_the_picture_of_its_time() -> None:
    session, journal = Session(), Journal()
    diary = diary_of(session, journal)
    session.transcript = Transcript(600, 60)
    for text, at_s in (("this one is on sale", 101), ("and", 107), ("this is new", 119)):
        said = pb.Said(text=text, start_ns=at_s * NS, end_ns=(at_s + 2) * NS)
        session.transcript.add(said)
    await show(diary, [100, 160, 220])
    assert [moment.line for moment in journal.kept] == ["a red circle", "a blue square"]
    assert [moment.start_ns // NS for moment in journal.kept] == [100, 108]
    assert all(moment.changed for moment in journal.kept)
    assert [len(picture) for picture in journal.kept[0].pictures] == [1000], "the small one"
    assert [moment.heard for moment in journal.kept] == ["this one is on sale and", ""]
    assert journal.kept[0].embedding == b"12"
    await diary.aclose()
    await show(diary, [30, 220])
    assert len(journal.kept) == 2, "closed"


async def test_what_has_not_changed_is_not_described_again() -> None:
    session, journal = Session(), Journal()
    diary = diary_of(session, journal)
    await show(diary, [100, 100, 100, 100, 100, 100, 220])  # 48 s of one scene
    assert [moment.line for moment in journal.kept] == ["a red circle"] * 4
    assert {moment.embedding for moment in journal.kept} == {b"12"}
    assert session.asked == 2
    assert all(moment.pictures for moment in journal.kept), "each has one of its own time"


async def test_what_could_not_be_described_is_tried_again_in_the_next_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diary_module, "MOVED_S", 0.0)
    session, journal = Session(), Journal()
    session.refuses = True
    diary = diary_of(session, journal)
    await show(diary, [100, 100, 100, 100])
    assert session.asked == 3
    await diary.aclose()


async def test_no_picture_is_kept_of_a_session_that_wants_lines() -> None:
    session, journal = Session(LINES), Journal()
    diary = diary_of(session, journal)
    await show(diary, [100, 220])
    assert not journal.kept[0].pictures
    assert journal.kept[0].line


async def test_a_worker_that_ends_in_mid_line_leaves_it_to_the_next() -> None:
    session, journal = Session(), Journal()
    session.refuses = True
    session.moved_on.set()
    diary = diary_of(session, journal)
    await show(diary, [100, 160])
    assert [moment.line for moment in journal.kept] == ["a blue square"], "the second asked"
    await diary.aclose()


async def test_what_goes_on_is_kept_when_another_gateway_takes_the_session() -> None:
    session, journal = Session(), Journal()
    diary = diary_of(session, journal)
    await show(diary, [100, 160])
    await diary.leave()
    assert [(moment.line, moment.start_ns // NS) for moment in journal.kept] == [
        ("a red circle", 100),
        ("a blue square", 108),
    ]


async def test_a_worker_that_says_nothing_and_a_store_that_is_away_cost_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diary_module, "MOVED_S", 0.0)
    session, journal = Session(), Journal()
    session.refuses = True
    journal.away = 1
    diary = diary_of(session, journal)
    await show(diary, [100, 160, 220])
    assert [moment.line for moment in journal.kept] == [""], "the first was lost, and counted"
    session.refuses = False
    session.worker.load.device_busy = 0.95
    asked = session.asked
    await show(diary, [30, 220])
    assert session.asked == asked, "it is busy enough"
    await diary.aclose()


async def test_what_is_deleted_is_erased_also_when_the_store_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Soon:
        def __init__(self, *seconds: float) -> None:
            pass

        def next_s(self) -> float:
            return 0.0

    monkeypatch.setattr(memories_module, "Backoff", Soon)
    sessions = SimpleNamespace(listen=lambda listener: None)
    made = Memories(cast(Any, sessions), GatewayConfig(), cast(Identity, None))
    journal = Journal()
    made.journal = cast(Any, journal)
    session = cast(Any, Session())
    journal.away = 3
    await made.forget(session)  # the caller does not wait for more
    made.session_deleted(session, "requested")
    await made.aclose()
    assert journal.forgotten == ["s"]
    forgetful = cast(Any, Session(pb.MEMORY_KIND_OFF))
    made.session_deleted(forgetful, "requested")
    await made.forget(forgetful)
    assert journal.forgotten == ["s"], "nothing was kept"


class Slow(Session):
    """A session whose first line takes until it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.first = asyncio.Event()

    async def _note(self, request: Any, timeout: float) -> inference_pb2.NoteResponse:
        self.asked += 1
        line = self.lines[self.asked - 1]
        if self.asked == 1:
            await self.first.wait()
        return inference_pb2.NoteResponse(line=line, embedding=b"12")


async def test_moments_are_written_in_their_order_whatever_their_lines_take() -> None:
    """Each with what was said in it."""
    session, journal = Slow(), Journal()
    diary = diary_of(session, journal)
    session.transcript = Transcript(600, 60)
    for text, at_s in (("the first", 101), ("the second", 109)):
        said = pb.Said(text=text, start_ns=at_s * NS, end_ns=(at_s + 2) * NS)
        session.transcript.add(said)
    await scenes(diary, [100, 160, 220])
    assert session.asked == 3
    assert not journal.kept, "the second waits for the first"
    session.first.set()
    await diary.settle()
    assert [(each.line, each.heard) for each in journal.kept] == [
        ("a red circle", "the first"),
        ("a blue square", "the second"),
    ]
    await diary.aclose()


async def test_one_that_is_never_described_keeps_no_other_back_when_all_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diary_module, "GOODBYE_S", 0.2)
    session, journal = Slow(), Journal()
    diary = diary_of(session, journal)
    await scenes(diary, [100, 160, 220])
    await diary.leave()
    assert [each.line for each in journal.kept] == ["a blue square", "a green star"]
