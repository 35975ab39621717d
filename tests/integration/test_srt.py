"""SRT against Debian's ffmpeg: it publishes to the port, and is called for what it sends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.gateway.sources.file import FileLimits, FileSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.source_opener import NOT_OPENED
from services.gateway.sources.srt.server import SrtServer
from sightline.errors import InvalidArgumentError
from tests.eventually import eventually
from tests.integration.test_whep import live, running_house
from tests.processes import free_port
from tests.sources import KEY, OneKeyGate, RecordingSink

pytestmark = [pytest.mark.option, pytest.mark.needs("srt")]
PASSPHRASE = "a-passphrase-of-many-characters"  # ffmpeg reads no escapes


def command(url: str, *, seconds: int = 3) -> list[str]:
    return [
        *("ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin", "-re", "-f", "lavfi"),
        *("-i", "testsrc2=size=320x240:rate=15", "-re", "-f", "lavfi", "-i", "sine"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "15"),
        *("-pix_fmt", "yuv420p", "-c:a", "aac", "-t", str(seconds), "-f", "mpegts", url),
    ]


async def ffmpeg(url: str, *, seconds: int = 3) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command(url, seconds=seconds),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def listening(passphrase: str | None = None) -> AsyncIterator[tuple[SrtServer, OneKeyGate]]:
    gate = OneKeyGate()
    server = SrtServer(gate, host="127.0.0.1", port=0, passphrase=passphrase)
    await server.start()
    try:
        yield server, gate
    finally:
        await server.aclose()
        assert len(gate.released_keys) == len(gate.sinks)
        for sink in gate.sinks:
            assert len(sink.reasons) == 1


@pytest.mark.parametrize("stream_id", ["publish:{}", "%23!::m=publish,r=live/{}", "live/{}"])
async def test_ffmpeg_publishes_pictures_and_sound(stream_id: str) -> None:
    async with listening() as (server, gate):
        url = f"srt://127.0.0.1:{server.port}?streamid={stream_id.format(KEY)}"
        process = await ffmpeg(url.replace("%23", "#"))
        _, said = await process.communicate()
        assert process.returncode == 0, said
        await eventually(lambda: gate.released_keys)
        (sink,) = gate.sinks
    assert server.counts == {"accepted": 1}
    assert server.packets["received"] > 30
    assert server.packets["lost"] == 0
    assert len(sink.pictures) > 30
    assert sink.reasons == ["publisher_left"]
    assert {(seen.width, seen.height) for seen in sink.pictures} == {(320, 240)}
    assert {sound.codec for sound in sink.sounds} == {"aac"}
    times = [seen.capture_ns for seen in sink.pictures]
    assert times == sorted(times)
    assert {seen.clock_source for seen in sink.pictures} == {"stream"}


async def test_a_wrong_key_and_a_second_publisher_are_refused() -> None:
    async with listening() as (server, gate):
        base = f"srt://127.0.0.1:{server.port}?streamid=publish:"
        wrong = await ffmpeg(base + "another-key")
        _, said = await wrong.communicate()
        assert wrong.returncode != 0
        assert not gate.sinks
        assert server.counts == {"wrong_key": 1}
        first = await ffmpeg(base + KEY, seconds=60)
        await eventually(lambda: gate.sinks and gate.sinks[0].pictures)
        second = await ffmpeg(base + KEY, seconds=60)
        _, said = await second.communicate()
        assert second.returncode != 0, said
        assert server.counts == {"wrong_key": 1, "accepted": 2, "refused": 1}
        assert first.returncode is None
        # The port closes: the publisher hears it.
        await server.aclose()
        _, said = await first.communicate()
        assert first.returncode != 0
    assert gate.sinks[0].reasons == ["closed"]


@pytest.mark.parametrize("given", ["", "wrong-one-of-many", PASSPHRASE])
async def test_with_a_passphrase_nobody_comes_without(given: str) -> None:
    taken = given == PASSPHRASE
    async with listening(PASSPHRASE) as (server, gate):
        url = f"srt://127.0.0.1:{server.port}?streamid={KEY}"
        url += f"&passphrase={given}" * bool(given)
        process = await ffmpeg(url, seconds=2)
        await process.communicate()
        assert (process.returncode == 0) is taken
        await eventually(lambda: bool(gate.released_keys) is taken)
        assert bool(gate.sinks) is taken


async def test_two_do_not_listen_on_one_port() -> None:
    async with listening() as (server, gate):
        second = SrtServer(gate, host="127.0.0.1", port=server.port)
        with pytest.raises(OSError, match=r"\S"):
            await second.start()
        await second.aclose()


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
async def test_an_encoder_that_listens_is_called(passphrase: str) -> None:
    port = free_port()
    query = f"&passphrase={passphrase}" if passphrase else ""
    encoder = await ffmpeg(f"srt://127.0.0.1:{port}?mode=listener{query}", seconds=60)
    sink = RecordingSink()
    url = f"srt://127.0.0.1:{port}?streamid=read:cam&latency=200{query}"
    source = FileSource(
        url, sink, egress=EgressPolicy(["127.0.0.1"]), limits=FileLimits(open_timeout_s=20.0)
    )
    try:
        await source.start()
        await asyncio.to_thread(sink.wait_for_pictures, 15, 20)
        await source.aclose()
    finally:
        encoder.kill()
        await encoder.communicate()
    assert sink.reasons == ["closed"]
    assert sink.sounds


async def test_only_where_it_is_allowed_and_only_as_a_caller() -> None:
    limits = FileLimits(open_timeout_s=1.0)
    for url, rule in (
        (f"srt://127.0.0.1:{free_port()}", "10.0.0.0/8"),
        (f"srt://127.0.0.1:{free_port()}", "127.0.0.1"),  # nobody is there
        (f"srt://127.0.0.1:{free_port()}?mode=listener", "127.0.0.1"),
        (f"srt://127.0.0.1:{free_port()}?latency=none", "127.0.0.1"),
        (f"srt://127.0.0.1:{free_port()}?passphrase=short", "127.0.0.1"),
    ):
        source = FileSource(url, RecordingSink(), egress=EgressPolicy([rule]), limits=limits)
        with pytest.raises(InvalidArgumentError, match=NOT_OPENED[:20]):
            await source.start()
        await source.aclose()


async def test_a_session_is_published_to_by_srt(tmp_path: Path) -> None:
    port = free_port()
    async with running_house(tmp_path, GATEWAY_SRT_PORT=str(port)) as house:
        session = await house.open()
        assert f"localhost:{port}" in session["srt_url"]
        encoder = await ffmpeg(session["srt_url"].replace("localhost", "127.0.0.1"), seconds=60)
        await live(house, session)
        async with house.http.get(f"{house.base}/api/sessions/{session['id']}") as response:
            assert (await response.json())["source_kind"] == "srt"
        await house.delete(session)
        await encoder.communicate()
        assert encoder.returncode != 0
