"""The SDK and the command line against the real suite."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

import sightline
from services.local.clip import Clip
from sightline import aio
from sightline.health import HealthWatch
from tests.processes import REPOSITORY
from tests.suite import Suite

MEDIA = REPOSITORY.parent / "shared" / "media"


class Proxy:
    """Carries a client's bytes to the gateway, until `cut` breaks every connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[aio.Client]:
    async with aio.connect(suite.address) as connected:
        yield connected
    suite.delete_sessions()


async def test_a_file_is_pushed_whole_and_asked(client: aio.Client, clip: Clip) -> None:
    async with await client.open(clip.path, realtime=False, until_s=8.0) as session:
        report = await session.wait()
        assert report.understood == 65  # 8 frames a second, both ends
        assert report.dropped == 0
        result = await session.ask("What is in the scene?").result()
        assert session.start_ns is not None
        assert (result.last_capture_ns - session.start_ns) / 1e9 == pytest.approx(8.0, abs=0.01)
        assert result.frames_seen == 30
        assert "".join([delta async for delta in session.ask("And now?")])


async def _next_condition(told: HealthWatch) -> str:
    health = await told.next(30)
    return str(health and health.condition)


async def test_dark_pictures_are_told_to_viewers(client: aio.Client) -> None:
    noise = np.random.default_rng(0)
    bright = [noise.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(20)]
    dark = [np.full((48, 64, 3), 5, np.uint8)] * 50
    async with await client.open(push=True, fps=8, grace_s=30) as session:
        assert session.info.source_health.condition is sightline.SourceCondition.UNKNOWN
        told = session.source_health()
        async with session.pusher(fps=10) as pusher:
            assert await _next_condition(told) == "unknown"
            for expected, pictures in (("fine", bright), ("dark", dark), ("fine", bright)):
                for picture in pictures:
                    await pusher.send(picture)
                assert await _next_condition(told) == expected
                assert (await session.refresh()).source_health.condition == expected
        assert await _next_condition(told) == "unknown"  # it is over
        told.close()


async def test_a_file_plays_in_real_time(client: aio.Client, clip: Clip) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    async with await client.open(clip.path, until_s=3.0) as session:
        assert session.state is sightline.SessionState.LIVE
        report = await session.wait()
        assert loop.time() - started > 2.9
        assert report.understood >= 23


@pytest.mark.parametrize("name", ["bottle-detection.mp4", "car-detection.mp4"])
async def test_real_video_loses_nothing(client: aio.Client, name: str) -> None:
    if not (MEDIA / name).exists():
        pytest.skip(f"{name} is not here")
    async with await client.open(MEDIA / name, realtime=False, until_s=10.0) as session:
        report = await session.wait()
        stats = (await session.refresh()).stats
        assert report.dropped == 0
        assert not sum(stats.dropped.values())
        assert report.understood == pytest.approx(80, abs=2)


async def test_arrays_are_seen_each_one(client: aio.Client) -> None:
    pictures = np.zeros((40, 96, 96, 3), np.uint8)
    pictures[:, 30:60, 30:60, 0] = 220
    async with await client.open(push=True, lossless=True) as session:
        report = await session.push(pictures, fps=session.info.fps)
        assert (report.received, report.understood, report.dropped) == (40, 40, 0)
        assert (await session.ask("How many objects are there?").result()).text


async def test_a_bad_picture_is_refused_and_the_session_stays(client: aio.Client) -> None:
    async with await client.open(push=True) as session:
        with pytest.raises(sightline.InvalidArgumentError, match="frame 1"):
            await session.push(b"\xff\xd8 not a picture")
        assert (await session.push(np.zeros((64, 64, 3), np.uint8))).received == 1


async def test_a_second_pusher_and_a_wrong_key_are_refused(client: aio.Client) -> None:
    async with await client.open(push=True, name="taken") as session:
        picture = np.zeros((64, 64, 3), np.uint8)
        async with session.pusher() as pusher:
            await pusher.send(picture)
            await session.wait_for_picture()
            with pytest.raises(sightline.FailedPreconditionError):
                await session.push(picture)
        other = await client.session("taken", key="not-the-key")
        with pytest.raises(sightline.UnauthenticatedError):
            await other.push(np.zeros((20, 720, 1280, 3), np.uint8))


async def test_a_broken_connection_is_resumed(suite: Suite, clip: Clip) -> None:
    proxy = Proxy(suite.gateway.grpc_port)
    await proxy.start()
    try:
        async with (
            aio.connect(f"127.0.0.1:{proxy.port}") as client,
            await client.open(clip.path.name, on_server=True, loop=True) as session,
        ):
            first = await session.ask("What is in the scene?").result()
            watch = session.watch("nothing is there", interval_s=0.2)
            questions = [session.ask("How many objects are there?") for _ in range(3)]
            proxy.cut()
            results = [await question.result() for question in questions]
            assert {result.conversation for result in results} == {first.conversation}
            assert all(result.text for result in results)
            proxy.cut()
            again = await session.ask("And now?").result()
            assert again.conversation == first.conversation
            assert again.history_rounds >= 4
            watch.close()
    finally:
        await proxy.stop()
        suite.delete_sessions()


async def test_an_answer_is_spoken(client: aio.Client, clip: Clip) -> None:
    async with await client.open(clip.path, realtime=False, until_s=4.0) as session:
        await session.wait()
        async with session.conversation(speech=True) as conversation:
            answer = conversation.ask("How many objects are there?")
            audio = [chunk async for chunk in answer.audio()]
    assert sum(len(chunk.pcm) for chunk in audio) > 2000
    spoken = [chunk async for chunk in client.speak("Nothing has changed.")]
    assert sum(len(chunk.pcm) for chunk in spoken) / 2 / spoken[0].sample_rate > 0.5


def _run(suite: Suite, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sightline.cli", "--server", suite.address, *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_line_asks_at_a_moment(suite: Suite, clip: Clip) -> None:
    done = _run(suite, "ask", str(clip.path), "What is in the scene?", "--at", "3.5", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["video_time_s"] == pytest.approx(3.5, abs=0.01)
    assert answer["answer"]
    assert done.stderr == ""
    assert json.loads(_run(suite, "sessions", "--json").stdout) == {"sessions": []}


def test_the_command_line_pushes_and_asks_by_name(suite: Suite, clip: Clip) -> None:
    try:
        pushed = _run(suite, "push", str(clip.path), "--session", "porch", "--json")
        assert json.loads(pushed.stdout)["dropped"] == 0
        assert _run(suite, "ask", "porch", "What is in the scene?").stdout.strip()
        assert _run(suite, "delete", "porch").returncode == 0
        assert _run(suite, "ask", "porch", "q").returncode == 4
    finally:
        suite.delete_sessions()


def test_the_command_line_writes_speech(suite: Suite, tmp_path: Path) -> None:
    done = _run(suite, "speak", "Good evening.", "-o", str(tmp_path / "o.wav"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.wav").read_bytes()[:4] == b"RIFF"
