"""The packets of a track as libavformat is to see them, whoever sends them."""

import itertools
import random
import struct
from collections.abc import Iterable

import pytest

from services.gateway.sources.remote.rtp_format import Beginning, RtpFormat, formats_of
from services.gateway.sources.remote.rtp_sender import (
    MAX_HELD,
    MOST_MISORDERED,
    RtpSender,
    SenderChangedError,
)
from services.gateway.sources.remote.rtsp import GOODBYE_S, RtspPipe
from services.gateway.sources.remote.url import SourceUrl

H264, SOUND = RtpFormat("H264", 90_000, True), RtpFormat("PCMU", 8000, False)
SETS, SLICE, KEY, REMARK = b"\x67video!", b"\x41video!", b"\x65video!", b"\x06video!"


def packet(
    number: int,
    ssrc: int = 7,
    *,
    stamp: int = 0,
    payload: bytes = SLICE,
    first: int = 0x80,
    kind: int = 96,
) -> bytes:
    times = struct.pack("!HI", number & 0xFFFF, stamp & 0xFFFFFFFF)
    return bytes((first, kind)) + times + struct.pack("!I", ssrc) + payload


def seen(packets: Iterable[bytes]) -> list[tuple[int, int, int]]:
    """(number, stamp, ssrc) of each."""
    return [struct.unpack_from("!2xHII", one) for one in packets]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def sender(clock: Clock | None = None) -> RtpSender:
    return RtpSender({96: H264, 0: SOUND}, clock or Clock())


def test_numbers_that_go_round_stand_still_or_leap_ahead_are_the_senders_own() -> None:
    track = sender()
    for number in (*range(65_000, 66_500), 66_499, 66_499, 90_000, 90_001):
        assert track.take(packet(number)) == [packet(number)]


def test_packets_that_come_late_in_any_order_are_the_senders_own() -> None:
    track, dice = sender(), random.Random(1)
    numbers = sorted(range(3000), key=lambda number: number + dice.random() * MOST_MISORDERED)
    assert all(track.take(packet(number)) == [packet(number)] for number in numbers)


def test_a_stray_packet_is_not_passed_on() -> None:
    track = sender()
    for number in range(5000, 5100):
        assert track.take(packet(number)) == [packet(number)]
        if number % 10 == 0:
            assert track.take(packet(number, ssrc=9)) == []
            assert track.take(packet(number - 1000)) == []


def test_what_is_no_packet_of_media_says_nothing() -> None:
    track = sender()
    track.take(packet(5000))
    for number in range(10):
        for other in (
            packet(number, ssrc=9, kind=200),
            packet(number, ssrc=9, first=0x40),
            b"\x80\x60",
        ):
            assert track.take(other) == [other]


@pytest.mark.parametrize(("ssrc", "number"), [(9, 5001), (9, 100), (7, 100), (7, 4880)])
def test_another_sender_that_says_all_goes_on_where_the_one_before_it_ended(
    ssrc: int, number: int
) -> None:
    clock = Clock()
    track = sender(clock)
    track.take(packet(5000, stamp=90_000))
    clock.now_s += 2
    shown = track.take(packet(number, ssrc, stamp=77, payload=SETS))
    shown += track.take(packet(number + 1, ssrc, stamp=77, payload=KEY))
    clock.now_s += 1
    shown += track.take(packet(number + 3, ssrc, stamp=77 + 90_000))
    shown += track.take(packet(number + 2, ssrc, stamp=77 + 45_000))
    at = 90_000 + 180_000
    assert seen(shown) == [
        (5001, at, 7),
        (5002, at, 7),
        (5004, at + 90_000, 7),
        (5003, at + 45_000, 7),
    ]
    assert [one[12:] for one in shown] == [SETS, KEY, SLICE, SLICE]


def test_another_sender_in_the_middle_of_pictures_needs_what_the_camera_repeats() -> None:
    """Parameters that only the description told may be others by now."""
    track = sender()
    track.take(packet(1, payload=SETS))
    assert track.take(packet(50, 9)) == []
    assert len(track.take(packet(51, 9))) == 2
    for payload in (SLICE, KEY, b"\x40\x01HEVC!"):
        track = sender()
        track.take(packet(1))
        assert track.take(packet(50, 9, payload=payload)) == []
        with pytest.raises(SenderChangedError):
            track.take(packet(51, 9, payload=payload))


def test_what_says_nothing_is_waited_behind_for_as_long_as_it_is_short() -> None:
    track = sender()
    track.take(packet(1))
    for number in range(50, 53):
        assert track.take(packet(number, 9, payload=REMARK)) == []
    assert len(track.take(packet(53, 9, payload=SETS))) == 4
    for number in range(90, 89 + MAX_HELD):
        assert track.take(packet(number, 11, payload=REMARK)) == []
    with pytest.raises(SenderChangedError):
        track.take(packet(89 + MAX_HELD, 11, payload=REMARK))


def test_sound_needs_nothing() -> None:
    track = sender()
    track.take(packet(1, kind=0))
    track.take(packet(50, 9, kind=0, stamp=5))
    assert seen(track.take(packet(51, 9, kind=0, stamp=165)))[-1][2] == 7


@pytest.mark.parametrize("leap", [-(2**31) + 1, -105_000, 600_000, 2**31 - 1])
def test_times_that_leap_go_on_by_as_much_as_they_come_later(leap: int) -> None:
    clock = Clock()
    track = sender(clock)
    stamps: list[int] = []
    at = 4_000_000_000
    for number in range(60):
        at += 9000 + (leap if number == 30 else 0)
        clock.now_s += 0.1
        stamps += [stamp for _, stamp, _ in seen(track.take(packet(number, stamp=at)))]
    steps = [later - earlier & 0xFFFFFFFF for earlier, later in itertools.pairwise(stamps)]
    assert all(abs(step - 9000) <= 1 for step in steps)


def test_a_camera_that_was_silent_for_as_long_as_its_times_say_is_believed() -> None:
    clock = Clock()
    track = sender(clock)
    track.take(packet(1, stamp=0))
    clock.now_s += 15
    assert track.take(packet(2, stamp=15 * 90_000)) == [packet(2, stamp=15 * 90_000)]


def test_any_packets_go_on_in_numbers_and_times() -> None:
    """Whatever begins anew: what is passed on has one SSRC, and times that are near the clock."""
    dice = random.Random(7)
    clock = Clock()
    track = sender(clock)
    number, ssrc, stamp = 1, 1, 0
    shown: list[tuple[int, int, int]] = []
    for _ in range(5000):
        if dice.random() < 0.01:
            number, stamp = dice.randrange(1 << 16), dice.randrange(1 << 32)
            ssrc = dice.choice((ssrc, dice.randrange(1 << 32)))
        clock.now_s += 0.04
        number, stamp = number + 1, stamp + 3600
        for payload in (SETS, KEY):
            shown += seen(track.take(packet(number, ssrc, stamp=stamp, payload=payload)))
            number += 1
    assert {one[2] for one in shown} == {1}
    steps = [(b[1] - a[1] & 0xFFFFFFFF) / 90_000 for a, b in itertools.pairwise(shown)]
    assert max(steps) < 6
    total_s = sum(steps)
    assert total_s < clock.now_s - 100 + 6 * 60


@pytest.mark.parametrize(
    ("name", "payload", "beginning"),
    [
        ("H264", b"\x67\x42\0\x1e\0\0", Beginning.ANEW),
        ("H264", b"\x78\0\x20\x67\x42\0", Beginning.ANEW),
        ("H264", b"\x5c\x81\x9a\0\0\0", Beginning.MIDDLE),
        ("H264", b"\x7c\x85\x88\0\0\0", Beginning.NEEDY),
        ("H264", b"\x09\xf0\0\0\0\0", Beginning.UNTOLD),
        ("H264", b"\x40\x01\x0c\x01\xff\xff", Beginning.NEEDY),  # H.265 by then
        ("H264", b"", Beginning.UNTOLD),
        ("H265", b"\x40\x01\x0c\x01\xff\xff", Beginning.ANEW),
        ("H265", b"\x60\x01\0\x18\x40\x01", Beginning.ANEW),
        ("H265", b"\x02\x01\xd0\0\0\0", Beginning.MIDDLE),
        ("H265", b"\x62\x01\x93\0\0\0", Beginning.NEEDY),
        ("H265", b"\x4e\x01\x05\0\0\0", Beginning.UNTOLD),
        ("H265", b"\x67\x42\0\x1e\0\0", Beginning.NEEDY),  # H.264 by then
        ("JPEG", b"", Beginning.ANEW),
        ("MP4V-ES", b"\0\0\1\xb0\0\0", Beginning.NEEDY),
    ],
)
def test_how_payloads_begin(name: str, payload: bytes, beginning: Beginning) -> None:
    assert RtpFormat(name, 90_000, True).beginning(payload) is beginning


def test_formats_of_a_description() -> None:
    text = (
        "v=0\r\nm=video 0 RTP/AVP 96 26\r\na=rtpmap:96 H264/90000\r\n"
        "m=audio 0 RTP/AVP 0 97 98\r\na=rtpmap:97 opus/48000/2\r\na=rtpmap:98 L16/0\r\n"
        "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n"
        "m=video 0 RTP/AVP 99\r\na=rtpmap:99 H265/90000\r\n"
        "m=audio 0 RTP/AVP 99\r\na=rtpmap:99 PCMU/8000\r\n"
    )
    found = formats_of(text)
    assert found[96] == H264
    assert found[26] == RtpFormat("JPEG", 90_000, True)
    assert found[0] == SOUND
    assert found[97] == RtpFormat("OPUS", 48_000, False)
    assert {98, 99}.isdisjoint(found)
    assert not found[107].video
    dice = random.Random(3)
    pieces = ["m=video 0 RTP/AVP", " 96", "a=rtpmap:96", " H264/90000", "\n", "9" * 30, "/", "m="]
    for _ in range(2000):
        formats_of("".join(dice.choices(pieces, k=dice.randint(1, 12))))


# --- reports, in the pipe -------------------------------------------------------------------------

BYE = b"\x80\xc9\0\1\0\0\0\7\x81\xcb\0\1\0\0\0\7"
REPORT = b"\x80\xc8\0\6" + bytes(24)


def interleaved(channel: int, data: bytes) -> bytes:
    return b"$" + bytes((channel,)) + len(data).to_bytes(2) + data


def pipe(clock: Clock) -> RtspPipe:
    made = RtspPipe(SourceUrl.parse("rtsp://cam/x"), "rtsp://127.0.0.1:1/s", clock_s=clock)
    made.from_player(b"DESCRIBE rtsp://127.0.0.1:1/s/x RTSP/1.0\r\nCSeq: 1\r\n\r\n")
    text = b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    head = f"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: {len(text)}\r\n\r\n"
    made.from_server(head.encode() + text)
    made.to_player.clear()
    return made


def test_a_goodbye_holds_once_nobody_follows() -> None:
    clock = Clock()
    made = pipe(clock)
    made.from_server(interleaved(0, packet(1)) + interleaved(1, BYE))
    made.advance()
    assert bytes(made.to_player) == interleaved(0, packet(1))
    clock.now_s += GOODBYE_S
    made.advance()
    assert made.to_player.endswith(interleaved(1, BYE))


def test_a_goodbye_is_forgotten_when_another_sender_follows_and_its_reports_too() -> None:
    """libavformat would take the goodbye for the end, and lay times by the reports."""
    clock = Clock()
    made = pipe(clock)
    made.from_server(interleaved(1, REPORT) + interleaved(0, packet(1)) + interleaved(1, BYE))
    assert interleaved(1, REPORT) in made.to_player
    made.to_player.clear()
    for number in (60, 61):
        made.from_server(interleaved(0, packet(number, 9, payload=SETS)))
    made.from_server(interleaved(1, REPORT))
    clock.now_s += 2 * GOODBYE_S
    made.advance()
    shown = bytes(made.to_player)
    assert shown.count(SETS) == 2
    assert BYE not in shown
    assert REPORT not in shown
