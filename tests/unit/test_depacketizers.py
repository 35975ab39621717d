"""RTP packets as ffmpeg makes them become pictures again, and broken ones never anything worse."""

import random
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from services.gateway.sources.bitstream import is_keyframe
from services.gateway.sources.decoder import DECODERS
from services.gateway.sources.whip.depacketizers import framed, picture_of

PICTURES = 8
ENCODERS = {
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "hevc": ("libx265", {"x265-params": "bframes=0:log-level=none", "preset": "ultrafast"}),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}),
}


class _Packets:
    """A file to which a muxer writes one packet at a time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, packet: bytes) -> int:
        self.written.append(bytes(packet))
        return len(packet)

    def pictures(self) -> list[list[bytes]]:
        """Payloads of every picture."""
        found: dict[bytes, list[bytes]] = {}
        for packet in self.written:
            if not 200 <= packet[1] <= 207:  # no report of RTCP
                found.setdefault(packet[4:8], []).append(packet[12:])
        return list(found.values())


def payloads_of(codec: str) -> list[list[bytes]]:
    """Payloads of a few noisy pictures, each of several packets."""
    encoder, options = ENCODERS[codec]
    packets = _Packets()
    noise = np.random.default_rng(1)
    muxing = {"strict": "-2", "packetsize": "500"}
    with av.open(packets, "w", format="rtp", options=muxing) as output:
        stream = output.add_stream(encoder, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.bit_rate = 500_000
        for number in range(PICTURES):
            pixels = noise.integers(0, 255, (96, 160, 3), dtype=np.uint8)
            pixels[:, :80] = 8 * number
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return packets.pictures()


def joined(payloads: list[bytes]) -> bytes:
    return b"".join(map(framed, payloads))


def decoded(codec: str, pictures: list[bytes]) -> Iterator[av.VideoFrame]:
    decoder = av.CodecContext.create(DECODERS[codec], "r")
    for picture in pictures:
        yield from decoder.decode(av.Packet(picture))
    yield from decoder.decode(None)


@pytest.mark.parametrize("codec", list(ENCODERS))
def test_packets_become_pictures_and_broken_ones_are_refused(codec: str) -> None:
    sent = payloads_of(codec)
    assert len(sent) == PICTURES
    assert len(sent[0]) > 3
    pictures = [picture_of(codec, joined(payloads)) for payloads in sent]
    assert [is_keyframe(codec, picture) for picture in pictures] == [True] + [False] * 7
    assert [(one.width, one.height) for one in decoded(codec, pictures)] == [(160, 96)] * PICTURES
    first = 1 if codec == "hevc" else 0  # whose parameter sets have a packet of their own
    with pytest.raises(ValueError, match=r"lacks|without"):  # the picture's first packet is lost
        picture_of(codec, joined(sent[0][:first] + sent[0][first + 1 :]))
    assert picture_of(codec, joined([*sent[0], b""])) == pictures[0]  # padding that probes a line
    chance = random.Random(7)
    num_refused = 0
    for _ in range(2000):
        payloads = [bytearray(payload) for payload in chance.choice(sent)]
        for _ in range(chance.randint(1, 4)):
            payload = chance.choice(payloads)
            if chance.random() < 0.5 and payload:
                payload[min(chance.randrange(4), len(payload) - 1)] = chance.randrange(256)
            else:
                del payload[chance.randrange(len(payload) + 1) :]
        try:
            picture_of(codec, joined([bytes(payload) for payload in payloads]))
        except ValueError:
            num_refused += 1
    assert num_refused > 50


def test_layers_of_a_vp9_picture_become_a_superframe() -> None:
    begins, ends = 0x08, 0x04
    payloads = [
        bytes((0xA0 | begins, 0x81, 0x02, 0x00, 0x07)) + b"lower",  # two bytes of id; TL0PICIDX
        bytes((0xB0 | 0x40 | begins | 0x02, 5, 0x02, 0x03, 0x02))  # flexible: two references …
        + bytes((0x38, *bytes(8), 1, 0x04, 0x09))  # … and a structure of two sizes and a group
        + b"upp",
        bytes((0xA0 | ends, 5, 0x02, 0x00)) + b"er one",
    ]
    marker = bytes((0xC0 | 0 << 3 | 1,))
    sizes = bytes((5, 9))
    assert picture_of("vp9", joined(payloads)) == b"lowerupper one" + marker + sizes + marker


def test_h265_units_that_share_a_packet_are_told_apart() -> None:
    packet = b"\x60\x01" + b"\0\x03\x40\x01v" + b"\0\x04\x42\x01sp"
    assert picture_of("hevc", joined([packet])) == b"\0\0\0\1\x40\x01v\0\0\0\1\x42\x01sp"
    with pytest.raises(ValueError, match="cut"):
        picture_of("hevc", joined([packet[:-1]]))
