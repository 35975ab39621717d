"""What MPEG-TS says of its video: noticed where it becomes another, and only there."""

import io
import itertools
import random
from pathlib import Path

import pytest

from services.gateway.sources.programme_map import ProgrammeWatch, _checksum
from services.gateway.sources.source import NoVideoError
from tests.sources import write_clip

H264, HEVC, AAC, MAP_PID = 0x1B, 0x24, 0x0F, 0x1000


def packet(pid: int, section: bytes) -> bytes:
    section += _checksum(section).to_bytes(4)
    head = bytes((0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10, 0))
    return (head + section).ljust(188, b"\xff")


def programmes(*numbers: int) -> bytes:
    body = b"".join(
        number.to_bytes(2) + (0xE000 | MAP_PID + number).to_bytes(2) for number in numbers
    )
    return packet(0, bytes((0, 0xB0, 9 + len(body), 0, 1, 0xC1, 0, 0)) + body)


def streams(programme: int, *kinds: tuple[int, int], version: int = 0) -> bytes:
    body = b"".join(
        bytes((kind,)) + (0xE000 | pid).to_bytes(2) + b"\xf0\x00" for kind, pid in kinds
    )
    head = bytes((2, 0xB0, 13 + len(body), 0, programme, 0xC1 | version << 1, 0, 0))
    return packet(MAP_PID + programme, head + b"\xe1\x00\xf0\x00" + body)


def pictures(pid: int = 0x100, num: int = 20) -> bytes:
    return (bytes((0x47, pid >> 8, pid & 0xFF, 0x10)) + bytes(184)) * num


def read(stream: bytes, seed: int = 0) -> list[bytes]:
    """The parts that a watch cuts the stream into, read in pieces of any size."""
    dice = random.Random(seed)
    watch, parts = ProgrammeWatch(io.BytesIO(stream)), []
    while True:
        part = bytearray()
        while piece := watch.read(dice.choice((188, 1316, 4096, 32_768))):
            part += piece
        parts.append(bytes(part))
        if not watch.changed:
            return parts
        watch.go_on()


BEGUN = programmes(1) + streams(1, (H264, 0x100), (AAC, 0x101)) + pictures()


@pytest.mark.parametrize(
    "follows",
    [
        BEGUN,
        programmes(1) + streams(1, (H264, 0x100), (AAC, 0x102), (AAC, 0x103), version=1),
        programmes(1, 2) + streams(1, (H264, 0x100)) + streams(2, (HEVC, 0x200)),
        programmes(1) + streams(1, (AAC, 0x101), version=2),  # for a while without video
        streams(2, (HEVC, 0x200)),  # of a programme that nobody lists
        streams(1, (HEVC, 0x100)).replace(b"\x24\xe1", b"\x24\xe9"),  # damaged
    ],
)
def test_what_is_not_another_video_changes_nothing(follows: bytes) -> None:
    stream = BEGUN + follows + pictures()
    assert read(stream) == [stream]


@pytest.mark.parametrize(
    "follows",
    [
        streams(1, (HEVC, 0x100), version=1),
        streams(1, (H264, 0x120), (AAC, 0x101), version=1),
        programmes(7) + streams(7, (H264, 0x300)),
    ],
)
def test_another_video_is_read_anew_with_its_tables(follows: bytes) -> None:
    before, after = read(BEGUN + follows + pictures())
    lists = follows[:-188] or programmes(1)
    assert before == BEGUN + follows[:-188]
    assert after == lists + follows[-188:] + pictures()


@pytest.mark.parametrize("others", [(AAC,), (AAC, 0x86), ()])
def test_what_comes_before_the_video_is_passed_over(others: tuple[int, ...]) -> None:
    alone = programmes(1) + streams(1, *((kind, 0x101) for kind in others)) + pictures(0x101)
    (shown,) = read(alone + alone + BEGUN + pictures())
    assert shown == BEGUN + pictures()
    with pytest.raises(NoVideoError):
        read(alone)


def test_the_video_is_not_waited_for_for_ever() -> None:
    """A publisher of sound alone goes on and on."""
    now_s = itertools.count(1.0)

    class Endless:
        def read(self, size: int) -> bytes:
            return programmes(1) + streams(1, (AAC, 0x101)) + pictures(0x101)

    with pytest.raises(NoVideoError):
        ProgrammeWatch(Endless(), lambda: next(now_s)).read(4096)


def test_streams_that_nobody_knows_may_be_video() -> None:
    private = programmes(1) + streams(1, (AAC, 0x101), (0x06, 0x102)) + pictures(0x102)
    assert read(private) == [private]


@pytest.mark.parametrize("seed", range(5))
def test_real_streams_joined(seed: int, tmp_path: Path) -> None:
    first = write_clip(tmp_path / "first.ts", seconds=1).read_bytes()
    other = write_clip(tmp_path / "other.ts", seconds=1, codec="mpeg2video").read_bytes()
    before, after = read(first + first + other + other, seed)
    # A table that two pieces share is not looked into: the next one is.
    assert before.startswith(first + first)
    assert after.endswith(other)
    assert len(before) + len(after) == 2 * (len(first) + len(other)) + 188


def test_no_bytes_do_harm() -> None:
    dice = random.Random(1)
    for _ in range(200):
        stream = bytearray(BEGUN + streams(1, (HEVC, 0x100)) + pictures())
        for _ in range(dice.choice((1, 10, 100))):
            stream[dice.randrange(len(stream))] = dice.choice((0x47, 0, 0xFF, dice.randrange(256)))
        del stream[dice.randrange(len(stream)) :][: dice.randrange(300)]
        parts = read(bytes(stream), dice.randrange(99))
        assert sum(map(len, parts)) - len(stream) in (0, 188, 376)
