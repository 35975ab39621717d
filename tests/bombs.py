"""Small media that ask a lot of whoever decodes them."""

from fractions import Fraction

import av
import numpy as np


def progressive_jpeg(width: int, height: int, scans: int) -> bytes:
    """A grey picture of many scans, each of which says in a few bytes that nothing changes."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body

    blocks = -(-width // 8) * -(-height // 8)
    runs = -(-blocks // 16384)
    size = height.to_bytes(2) + width.to_bytes(2)
    repeated = segment(0xDA, bytes((1, 1, 0, 1, 63, 0))) + bytes(-(-runs * 15 // 8) + 1)
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, b"\x08" + size + bytes((1, 1, 0x11, 0))),
            segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00"),  # one code of one bit: no change
            segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0"),  # one code: the end of 16384 blocks
            segment(0xDA, bytes((1, 1, 0, 0, 0, 0))) + bytes(-(-blocks // 8)),
            repeated * scans,
            b"\xff\xd9",
        )
    )


def many_references(
    width: int, height: int, references: int, pictures: int, codec: str = "libx264"
) -> list[bytes]:
    """Packets of a video whose decoder keeps that many pictures; all of it is one grey."""
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    parameters = "bframes=0:rc-lookahead=0:scenecut=0:log-level=none"
    parameters += f":ref={references}:keyint=1000"
    name = "x264-params" if codec == "libx264" else "x265-params"
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", name: parameters}
    frame = av.VideoFrame.from_ndarray(
        np.full((height * 3 // 2, width), 90, np.uint8), format="yuv420p"
    )
    packets = []
    for number in range(pictures):
        frame.pts = number
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]
