"""Patience with live sources that go on without pictures, by a clock of the test."""

import io
from pathlib import Path
from typing import Any, cast

import av
import pytest
from aioice import Connection
from aiortc import RTCRtpReceiver

from services.gateway.sources import container, patience
from services.gateway.sources.container import open_transport_stream
from services.gateway.sources.patience import (
    SWALLOWED_BYTES,
    SWALLOWED_S,
    Patience,
    PatientFile,
)
from services.gateway.sources.whip.publication import Publication
from services.gateway.webrtc.demultiplexer import Demultiplexer
from services.gateway.webrtc.seat import MAX_UNREAD, UNREAD, Seat
from sightline.errors import InvalidArgumentError
from tests.sources import RecordingSink, write_clip
from tests.unit.test_picture_buffer import Clock
from tests.unit.test_whip_publication import Receiver

NULL_PACKET = bytes((0x47, 0x1F, 0xFF, 0x10)) + bytes(184)


def test_each_picture_renews_it_and_its_end_is_told_once() -> None:
    clock, sink = Clock(), RecordingSink()
    begun = Patience(sink, 15, 60, clock)
    clock.now_s += 14
    assert not begun.is_over
    begun.shown()
    clock.now_s += 59
    assert not begun.is_over
    clock.now_s += 2
    file = PatientFile(io.BytesIO(b"more"), begun)
    assert (file.read(4), file.read(4)) == (b"", b"")
    assert sink.notes == {"no_picture": 1}


class Trickle:
    """MPEG-TS that never ends, whose clock goes on as it is read: a second every 100 reads."""

    def __init__(self, begin: bytes, clock: Clock) -> None:
        self._left = begin
        self._clock = clock

    def read(self, size: int) -> bytes:
        data, self._left = self._left[:size], self._left[size:]
        if not data:
            self._clock.now_s += 0.01
            data = NULL_PACKET
        return data


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    made = patience.Patience
    monkeypatch.setattr(container, "Patience", lambda sink: made(sink, clock_s=clock))
    return clock


def test_empty_packets_alone_are_not_read_for_ever(clock: Clock) -> None:
    sink = RecordingSink()
    with pytest.raises((InvalidArgumentError, av.FFmpegError)):
        open_transport_stream(Trickle(NULL_PACKET * 50, clock), sink, lambda: None)
    assert sink.notes == {"no_picture": 1}


def test_a_stream_whose_pictures_cease_ends(clock: Clock, tmp_path: Path) -> None:
    sink = RecordingSink()
    stream = write_clip(tmp_path / "clip.ts", seconds=1).read_bytes()
    reading = open_transport_stream(Trickle(stream, clock), sink, lambda: None)
    assert len(list(reading.pictures)) == 15
    assert sink.notes["no_picture"] == 1
    reading.close()


async def test_a_whip_publisher_without_pictures_is_left() -> None:
    receiver: Any = Receiver()
    receiver.getSynchronizationSources = list
    sink, clock = RecordingSink(), Clock()
    publication = Publication(cast(RTCRtpReceiver, receiver), sink, "test")
    begun = Patience(sink, 15, 60, clock)
    clock.now_s += 16
    assert await publication.watch(1e9, begun) == "idle"
    assert sink.notes == {"no_picture": 1}
    await publication.close("idle")


async def test_what_nobody_reads_is_thrown_away_and_counted() -> None:
    connection = Connection(ice_controlling=False)
    connection._nominated = {1: cast(Any, None)}  # it is connected
    dropped: list[str] = []
    table = Demultiplexer(lambda reason, count=1: None, lambda lane, data, address: None)
    Seat(connection, table, {}, [], lambda lane, address: None, dropped.append)
    for number in range(MAX_UNREAD + 3):
        connection.data_received(str(number).encode(), 1)
    assert dropped == [UNREAD] * 3
    assert [await connection.recv() for _ in range(2)] == [b"0", b"1"]
    for _ in range(3):
        connection.data_received(b"late", 1)
    assert dropped == [UNREAD] * 4
    unread = [await connection.recv() for _ in range(MAX_UNREAD)]
    assert unread[-3:] == [str(MAX_UNREAD - 1).encode(), b"late", b"late"]


@pytest.mark.parametrize("num_unread", [1, MAX_UNREAD])
async def test_the_end_of_a_connection_is_heard_however_much_is_unread(num_unread: int) -> None:
    connection = Connection(ice_controlling=False)
    connection._nominated = {1: cast(Any, None)}
    table = Demultiplexer(lambda reason, count=1: None, lambda lane, data, address: None)
    Seat(connection, table, {}, [], lambda lane, address: None, lambda reason: None)
    for _ in range(num_unread):
        connection.data_received(b"packet", 1)
    connection._queue.put_nowait(None)  # what aioice does where a peer is gone
    for _ in range(num_unread):
        assert await connection.recv() == b"packet"
    with pytest.raises(ConnectionError):
        await connection.recv()


def test_what_is_read_for_long_and_gives_no_packet_is_over() -> None:
    """But not where packets are merely rare, or large."""
    clock = Clock()
    begun = Patience(RecordingSink(), 1000, 1000, clock)
    clock.now_s += 2 * SWALLOWED_S
    begun.fed(2 * SWALLOWED_BYTES)
    assert not begun.is_over, "nothing is known of it yet"
    begun.parsed()
    clock.now_s += 2 * SWALLOWED_S
    begun.fed(SWALLOWED_BYTES)
    assert not begun.is_over
    begun.fed(1)
    assert begun.is_over
    begun.parsed()
    begun.fed(2 * SWALLOWED_BYTES)
    assert not begun.is_over, "it came at once"
    clock.now_s += SWALLOWED_S + 0.1
    assert begun.is_over
