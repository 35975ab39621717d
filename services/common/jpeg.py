"""JPEG of pictures, by libavcodec."""

from fractions import Fraction

import av
from av.codec.context import Flags

_TICK = Fraction(1, 25)


def encode_jpeg(frame: av.VideoFrame, quality: int = 4) -> bytes:
    """JPEG of a yuvj420p picture; `quality` 2 (best) to 31."""
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = frame.width, frame.height
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = _TICK
    encoder.thread_count = 1  # several would do without tables of the picture's own: a fifth more
    encoder.flags |= Flags.qscale
    encoder.global_quality = quality * 118  # FF_QP2LAMBDA
    frame.pts = 0
    return b"".join(bytes(packet) for packet in encoder.encode(frame))


def decode_jpeg(jpeg: bytes) -> av.VideoFrame:
    """The picture of a JPEG. Raises ValueError for what is none."""
    try:
        decoder = av.CodecContext.create("mjpeg", "r")
        assert isinstance(decoder, av.VideoCodecContext)
        return [*decoder.decode(av.Packet(jpeg)), *decoder.decode(None)][0]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError("this is no JPEG") from error
