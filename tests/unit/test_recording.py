"""Recordings: what is kept of a session, for how long, and how it is looked at again."""

import asyncio
import io
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import av
import pytest

from services.gateway.playback import recording as module
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.recording import Recording
from services.gateway.sources.sound import EncodedSound
from services.gateway.sources.source import EncodedPacket
from sightline.errors import NotFoundError, ResourceExhaustedError
from tests.eventually import eventually
from tests.sources import START_NS, Clip, encode_clip
from tests.unit.http_parts import served
from tests.unit.test_sound import packets

SECOND_NS = 1_000_000_000
START_S = START_NS / SECOND_NS
STEP_NS = SECOND_NS // 10


def show(broadcast: Broadcast, clip: Clip, begin: int = 0, start_ns: int = START_NS) -> None:
    for data, number, keyframe in clip.packets:
        at_ns = start_ns + (begin + number) * STEP_NS
        broadcast.encoded("h264", b"", EncodedPacket(data, at_ns, keyframe))


@asynccontextmanager
async def recording(seconds: float, max_bytes: int) -> AsyncIterator[tuple[Broadcast, Recording]]:
    broadcast = Broadcast("test", asyncio.get_running_loop())
    kept = Recording("test", broadcast, seconds=seconds, max_bytes=max_bytes)
    kept.start()
    try:
        yield broadcast, kept
    finally:
        await kept.aclose()
        await broadcast.aclose()
    assert kept.num_bytes == 0


async def test_the_seconds_around_a_moment_are_an_mp4_with_sound() -> None:
    clip = encode_clip(num_pictures=60, gop=10)
    async with recording(60, 10**8) as (broadcast, kept):
        show(broadcast, clip)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 5.9))
        sounds = packets("libopus", seconds=0.6)
        for sound in sounds:
            broadcast.sound.take(EncodedSound("opus", sound.data, sound.capture_ns + 5 * SECOND_NS))
        before = kept.num_bytes
        wanted = before + sum(len(sound.data) for sound in sounds)
        await eventually(lambda: kept.num_bytes == wanted)
        found = await kept.clip(START_S + 2.5, START_S + 5.5)
        assert found.start_s == pytest.approx(START_S + 2.0)  # the keyframe before
        assert found.end_s == pytest.approx(START_S + 5.5)
        with av.open(io.BytesIO(found.data)) as container:
            pictures = list(container.decode(video=0))
            assert len(pictures) == 36
            assert float(pictures[-1].time or 0) == pytest.approx(3.5, abs=0.01)
            assert pictures[0].width == 160
        with av.open(io.BytesIO(found.data)) as container:
            heard = list(container.decode(audio=0))
            assert float(heard[0].time or 0) == pytest.approx(3.0, abs=0.1)
        with pytest.raises(NotFoundError):
            await kept.clip(START_S - 10, START_S - 5)


async def test_only_the_last_seconds_and_bytes_are_kept() -> None:
    clip = encode_clip(num_pictures=60, gop=10)
    async with recording(2, 10**8) as (broadcast, kept):
        show(broadcast, clip)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 5.9))
        assert (await kept.clip(0, START_S + 60)).start_s == pytest.approx(START_S + 3.0)
    size = sum(len(data) for data, _, _ in clip.packets)
    async with recording(60, size // 2) as (broadcast, kept):
        show(broadcast, clip)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 5.9))
        assert size // 4 < kept.num_bytes <= size // 2


async def test_what_viewers_had_made_of_a_picture_is_not_kept() -> None:
    """Payloads of long units are copies: with a viewer, a recording took twice what it may."""
    clip = encode_clip(num_pictures=60, gop=10, width=640, height=480)
    async with recording(60, 10**8) as (broadcast, kept):
        viewer = broadcast.join()
        show(broadcast, clip)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 5.9))
        tracemalloc.start()
        for _ in range(60):
            picture, _ = await viewer.next()
            assert picture.payloads
        del picture
        left_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Those since the last keyframe are kept for whoever joins.
        assert left_bytes < kept.num_bytes / 2


async def test_clips_are_made_one_after_the_other_and_not_where_they_are_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty events at once took twenty times the size of a clip, and more."""
    making, most, lock = 0, 0, threading.Lock()

    def counted(*arguments: Any) -> bytes:
        nonlocal making, most
        with lock:
            making += 1
            most = max(most, making)
        time.sleep(0.01)
        with lock:
            making -= 1
        return b"mp4"

    monkeypatch.setattr(module, "mux", counted)
    clip = encode_clip(num_pictures=60, gop=10)
    async with recording(60, 10**8) as (broadcast, kept):
        show(broadcast, clip)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 5.9))
        made = await asyncio.gather(*(kept.clip(0, START_S + 60) for _ in range(20)))
        assert [each.data for each in made] == [b"mp4"] * 20
        assert most == 1
        monkeypatch.setattr(module, "mux", lambda *arguments: pytest.fail("it was made"))
        with pytest.raises(ResourceExhaustedError):
            await kept.clip(0, START_S + 60, kept.num_bytes - 1)


async def test_another_size_begins_another_file() -> None:
    async with recording(60, 10**8) as (broadcast, kept):
        show(broadcast, encode_clip(num_pictures=10, gop=10))
        broadcast.restart()
        show(broadcast, encode_clip(num_pictures=10, gop=10, width=320, height=240), 20)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 2.9))
        found = await kept.clip(0, START_S + 60)
        assert found.start_s == pytest.approx(START_S + 2.0)
        with av.open(io.BytesIO(found.data)) as container:
            assert {picture.width for picture in container.decode(video=0)} == {320}


async def test_it_is_asked_for_by_http_and_erased_with_its_session() -> None:
    clip = encode_clip(num_pictures=20, gop=10)
    async with served(recording_s=60.0) as (parts, client):
        session = await parts.push_session()
        path = f"/api/sessions/{session.id}/recording"
        assert (await client.get(path)).status == 404
        start_ns = time.time_ns() - 2 * SECOND_NS
        show(session.broadcast, clip, start_ns=start_ns)
        kept = session.recording
        assert kept is not None
        await eventually(lambda: kept.newest_s > start_ns / SECOND_NS + 1.8)
        reply = await client.get(path, params={"from": "-60"})
        assert (reply.status, reply.content_type) == (200, "video/mp4")
        began_s = float(reply.headers["Sightline-From"])
        assert began_s == pytest.approx(start_ns / SECOND_NS, abs=0.01)
        with av.open(io.BytesIO(await reply.read())) as container:
            assert len(list(container.decode(video=0))) == 20
        for wrong in ({"from": "x"}, {"to": "nan"}, {"from": "-1", "to": "-2"}):
            assert (await client.get(path, params=wrong)).status == 400
        await parts.sessions.remove(session.id)
        await eventually(lambda: kept.num_bytes == 0)
        assert (await client.get(path)).status == 404
    async with served() as (parts, client):
        session = await parts.push_session()
        assert session.recording is None
        reply = await client.get(f"/api/sessions/{session.id}/recording")
        assert reply.status == 404


async def test_a_player_of_hls_shows_what_is_kept() -> None:
    async with served(recording_s=60.0) as (parts, client):
        session = await parts.push_session()
        base = f"/api/sessions/{session.id}/hls/"
        kept = session.recording
        assert kept is not None
        assert (await client.get(base + "index.m3u8")).status == 200
        start_ns = time.time_ns() - 8 * SECOND_NS
        show(session.broadcast, encode_clip(num_pictures=40, gop=10), start_ns=start_ns)
        await eventually(lambda: kept.newest_s > start_ns / SECOND_NS + 3.8)
        for sound in packets("libopus", seconds=0.3):
            session.broadcast.sound.take(
                EncodedSound("opus", sound.data, sound.capture_ns - START_NS + start_ns)
            )
        reply = await client.get(base + "index.m3u8")
        assert reply.content_type == "application/vnd.apple.mpegurl"
        lines = (await reply.text()).splitlines()
        assert "#EXT-X-TARGETDURATION:1" in lines
        assert lines.count("#EXTINF:1.000,") == 3  # the fourth still grows
        assert [line for line in lines if line[0] != "#"] == ["0.m4s", "1.m4s", "2.m4s"]
        head = await (await client.get(base + "0.mp4")).read()
        second = await (await client.get(base + "1.m4s")).read()
        with av.open(io.BytesIO(head + second)) as container:
            times = [float(picture.time or 0) for picture in container.decode(video=0)]
        assert times == pytest.approx([1 + number / 10 for number in range(10)], abs=0.001)

        def play() -> list[float]:
            url = str(client.make_url(base + "index.m3u8"))
            with av.open(url, options={"live_start_index": "0"}) as container:
                pictures = container.decode(video=0)
                return [float(next(pictures).time or 0) for _ in range(30)]

        shown = await asyncio.to_thread(play)
        assert shown == pytest.approx([number / 10 for number in range(30)], abs=0.001)
        for wrong in ("3.m4s", "9.mp4", "index.html", "-1.m4s", "1.m4s.mp4"):
            assert (await client.get(base + wrong)).status == 404


async def test_another_size_begins_with_another_head() -> None:
    async with recording(60, 10**8) as (broadcast, kept):
        show(broadcast, encode_clip(num_pictures=20, gop=10))
        broadcast.restart()
        show(broadcast, encode_clip(num_pictures=20, gop=10, width=320, height=240), 20)
        await eventually(lambda: kept.newest_s == pytest.approx(START_S + 3.9))
        lines = (await kept.hls("index.m3u8")).decode().splitlines()
        heads = [line for line in lines if line.startswith("#EXT-X-MAP")]
        assert heads == ['#EXT-X-MAP:URI="0.mp4"', '#EXT-X-MAP:URI="2.mp4"']
        assert lines.count("#EXT-X-DISCONTINUITY") == 1
        data = await kept.hls("2.mp4") + await kept.hls("2.m4s")
        with av.open(io.BytesIO(data)) as container:
            assert {picture.width for picture in container.decode(video=0)} == {320}
