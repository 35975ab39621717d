"""A day and a quarter of one session's memory, in the time of its video: nothing grows."""

import asyncio
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis.asyncio

from services.dialogue.config import DialogueConfig
from services.dialogue.moment_calls import MomentCalls
from services.dialogue.moments import KEY, PICTURES, MomentStore
from services.dialogue.store import RedisStore
from services.gateway.frames.sampler import SampledFrame
from services.gateway.memory.diary import Diary
from services.gateway.voice.transcript import Transcript
from sightline.v1 import dialogue_pb2, inference_pb2
from sightline.v1 import gateway_pb2 as pb
from tests.processes import REDIS_TIMEOUT_S, RedisServer
from tests.unit import test_diary

pytestmark = pytest.mark.slow

NS = 1_000_000_000
HOURS, KEPT_HOURS = 30, 24
SCENE_S = 11  # each with another square, so that moments end by changes
BEGAN_S = 1_700_000_000 // 3600 * 3600
PER_HOUR = 1024 * 1024
OVERHEAD = 2.0  # of Redis, which counts more than the bytes that it is given
GROWN_MIB = 16.0


class Journal:
    """The store's own calls, without a wire."""

    def __init__(self, calls: MomentCalls) -> None:
        self._calls = calls
        self.pictures_left_out = 0

    async def keep(
        self, session: str, moment: dialogue_pb2.Moment
    ) -> dialogue_pb2.KeepMomentResponse:
        request = dialogue_pb2.KeepMomentRequest(session=session, moment=moment)
        reply = await self._calls.KeepMoment(request, None)  # type: ignore[arg-type]
        assert not reply.left_out
        self.pictures_left_out += reply.pictures_left_out
        return reply


class Session(test_diary.Session):
    def __init__(self) -> None:
        super().__init__()
        self._random = np.random.default_rng(1)

    async def _note(self, request: Any, timeout: float) -> inference_pb2.NoteResponse:
        self.asked += 1
        line = f"a red shirt is at the left and {self.asked} things are at the right"
        return inference_pb2.NoteResponse(line=line, embedding=bytes(512))

    async def preview(self, width: int) -> bytes:
        return self._random.bytes(12_000)  # of which an hour has more than its bytes


async def test_a_day_of_video_leaves_no_more_than_a_day_and_grows_nothing(
    redis_server: RedisServer,
) -> None:
    config = DialogueConfig(
        redis_url=redis_server.url,
        redis_timeout_s=REDIS_TIMEOUT_S,
        memory_bytes_per_hour=PER_HOUR,
    )
    store = RedisStore(config)
    calls = MomentCalls(MomentStore(config, store))
    journal, session = Journal(calls), Session()
    session.transcript = Transcript(600, 60)
    diary = Diary(cast(Any, session), cast(Any, journal), 15.0)
    bytes_of_hour, rss_mib = list[int](), list[float]()
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        for hour in range(HOURS):
            await _watch(diary, session, BEGAN_S + hour * 3600)
            keys = [KEY + session.id, PICTURES + session.id]
            sizes = [await client.memory_usage(key, samples=0) or 0 for key in keys]
            bytes_of_hour.append(sum(sizes))
            rss_mib.append(_rss_mib())
        listed = dialogue_pb2.ListMomentsRequest(session=session.id, limit=5000)
        newest = (await calls.ListMoments(listed, None)).moments  # type: ignore[arg-type]
        listed.to_ns = (BEGAN_S + (HOURS - KEPT_HOURS) * 3600 - 60) * NS
        older = (await calls.ListMoments(listed, None)).moments  # type: ignore[arg-type]
        assert newest[0].end_ns > (BEGAN_S + HOURS * 3600 - 60) * NS
        assert not older, "what is older than a day has left"
        assert journal.pictures_left_out, "the hours were full"
        assert max(bytes_of_hour) < OVERHEAD * PER_HOUR * (KEPT_HOURS + 1)
        assert max(bytes_of_hour[KEPT_HOURS:]) < 1.1 * bytes_of_hour[KEPT_HOURS - 1]
        assert rss_mib[-1] - rss_mib[3] < GROWN_MIB, rss_mib
        forget = dialogue_pb2.ForgetMomentsRequest(session=session.id)
        await calls.ForgetMoments(forget, None)  # type: ignore[arg-type]
        assert not await client.exists(*keys)
    await diary.aclose()
    await store.aclose()


async def _watch(diary: Diary, session: Session, began_s: int) -> None:
    """An hour of frames, one a second, and of talk."""
    assert session.transcript is not None
    for second in range(3600):
        at_ns = (began_s + second) * NS
        pixels = np.full((16, 16, 3), 30, np.uint8)
        pixels[4:10, 4:10] = 60 + 50 * (second // SCENE_S % 4)
        diary.see(SampledFrame(pixels.tobytes(), 16, 16, at_ns, "arrival", 0.0))
        if second % 30 == 0:
            said = pb.Said(text="this one is new", start_ns=at_ns, end_ns=at_ns + NS)
            session.transcript.add(said)
        await asyncio.sleep(0)
        if second % SCENE_S == SCENE_S - 1:
            await diary.settle()


def _rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
