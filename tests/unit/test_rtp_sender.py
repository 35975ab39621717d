"""Whether RTP packets still come from the sender that began."""

import random
import struct

from services.gateway.sources.remote.rtp_sender import MOST_MISORDERED, RtpSender


def packet(number: int, ssrc: int = 7, *, first: int = 0x80, kind: int = 96) -> bytes:
    return struct.pack("!BBHII", first, kind, number & 0xFFFF, 0, ssrc) + b"video"


def test_numbers_that_go_round_stand_still_or_leap_ahead_are_the_senders_own() -> None:
    sender = RtpSender()
    for number in (*range(65_000, 66_500), 66_499, 66_499, 90_000, 90_001):
        assert not sender.is_another(packet(number))


def test_packets_that_come_late_in_any_order_are_the_senders_own() -> None:
    sender, dice = RtpSender(), random.Random(1)
    numbers = sorted(range(3000), key=lambda number: number + dice.random() * MOST_MISORDERED)
    assert not any(sender.is_another(packet(number)) for number in numbers)


def test_a_stray_packet_says_nothing() -> None:
    sender = RtpSender()
    for number in range(5000, 5100):
        assert not sender.is_another(packet(number))
        if number % 10 == 0:
            assert not sender.is_another(packet(number, ssrc=9))
            assert not sender.is_another(packet(number - 1000))


def test_what_is_no_packet_of_media_says_nothing() -> None:
    sender = RtpSender()
    assert not sender.is_another(packet(5000))
    for number in range(10):
        assert not sender.is_another(packet(number, ssrc=9, kind=200))
        assert not sender.is_another(packet(number, ssrc=9, first=0x40))
        assert not sender.is_another(b"\x80\x60")


def test_two_in_a_row_of_another_are_another_sender() -> None:
    for ssrc, number in ((9, 5001), (9, 100), (7, 100), (7, 5000 - MOST_MISORDERED - 10)):
        sender = RtpSender()
        assert not sender.is_another(packet(5000))
        assert not sender.is_another(packet(number, ssrc))
        assert sender.is_another(packet(number + 1, ssrc))
