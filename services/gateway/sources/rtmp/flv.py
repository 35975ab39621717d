"""FLV payloads in RTMP messages: what codec, what kind of packet, where the data starts."""

from dataclasses import dataclass
from typing import Literal

from services.gateway.sources.rtmp import RtmpError

# Enhanced RTMP's names of the codecs we decode. VP8 and AVC are version 2's.
FOUR_CC = {"avc1": "h264", "hvc1": "hevc", "av01": "av1", "vp09": "vp9", "vp08": "vp8"}
_CODEC_IDS = {7: "h264", 12: "hevc"}  # 12: used for HEVC before Enhanced RTMP
_CODECS_WITH_COMPOSITION_TIME = ("h264", "hevc")

_SEQUENCE_START, _CODED_FRAMES, _SEQUENCE_END, _CODED_FRAMES_X = 0, 1, 2, 3
_METADATA, _MULTITRACK, _MOD_EX = 4, 6, 7
_COMMAND_FRAME = 5  # frame type: seeking, no picture
_SOUND_FORMATS = {2: "mp3", 7: "pcm_alaw", 8: "pcm_mulaw", 10: "aac", 14: "mp3"}
_SOUND_FOUR_CC = {
    "mp4a": "aac",
    "Opus": "opus",
    ".mp3": "mp3",
    "fLaC": "flac",
    "ac-3": "ac3",
    "ec-3": "eac3",
}
_TELEPHONE = ("pcm_alaw", "pcm_mulaw")
_AAC, _ENHANCED = 10, 9


@dataclass(frozen=True, slots=True)
class VideoTag:
    """`kind`: "header" (`data` is the decoder configuration), "frame" or "none" (nothing to
    decode). `composition_ms`: presentation minus decoding time."""

    kind: Literal["header", "frame", "none"]
    codec: str = ""
    keyframe: bool = False
    composition_ms: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class AudioTag:
    """`kind`: "header" (`data` is the decoder configuration), "frame" or "none" (of no codec that
    is known). `rate` and `channels` are 0 where the bitstream says them."""

    kind: Literal["header", "frame", "none"]
    codec: str = ""
    data: bytes = b""
    rate: int = 0
    channels: int = 0


def parse_video(payload: bytes) -> VideoTag:
    """Raises RtmpError for an unknown codec or a packet that is too short."""
    if not payload:
        return VideoTag("none")
    frame_type = payload[0] >> 4 & 0x07
    if payload[0] & 0x80:
        return _parse_enhanced(payload, keyframe=frame_type == 1)
    if frame_type == _COMMAND_FRAME:
        return VideoTag("none")
    codec = _CODEC_IDS.get(payload[0] & 0x0F)
    if codec is None:
        raise RtmpError(f"video codec {payload[0] & 0x0F} is not supported; send H.264")
    if len(payload) < 5:
        raise RtmpError("a video packet that is too short")
    keyframe, composition_ms = frame_type == 1, _signed24(payload[2:5])
    if payload[1] == 0:
        return VideoTag("header", codec, data=payload[5:])
    if payload[1] == 1:
        return VideoTag("frame", codec, keyframe, composition_ms, payload[5:])
    return VideoTag("none", codec)


def _parse_enhanced(payload: bytes, keyframe: bool) -> VideoTag:
    packet_type = payload[0] & 0x0F
    position = 1
    while packet_type == _MOD_EX:  # modifiers (a finer timestamp) we have no use for
        size = _byte(payload, position) + 1
        position += 1
        if size == 256:
            size = int.from_bytes(payload[position : position + 2]) + 1
            position += 2
        position += size
        packet_type = _byte(payload, position) & 0x0F
        position += 1
    if packet_type == _MULTITRACK:
        raise RtmpError("several video tracks in one stream are not supported")
    if payload[0] >> 4 & 0x07 == _COMMAND_FRAME and packet_type != _METADATA:
        return VideoTag("none")
    four_cc = payload[position : position + 4].decode("latin-1")
    position += 4
    codec = FOUR_CC.get(four_cc)
    if codec is None:
        known = ", ".join(FOUR_CC)
        raise RtmpError(f"video codec {four_cc!r} is not supported; known are {known}")
    if packet_type == _SEQUENCE_START:
        return VideoTag("header", codec, data=payload[position:])
    if packet_type == _CODED_FRAMES:
        composition_ms = 0
        if codec in _CODECS_WITH_COMPOSITION_TIME:
            if len(payload) < position + 3:
                raise RtmpError("a video packet that is too short")
            composition_ms = _signed24(payload[position : position + 3])
            position += 3
        return VideoTag("frame", codec, keyframe, composition_ms, payload[position:])
    if packet_type == _CODED_FRAMES_X:
        return VideoTag("frame", codec, keyframe, 0, payload[position:])
    return VideoTag("none", codec)


def parse_audio(payload: bytes) -> AudioTag:
    """Never raises: audio that we do not understand is nothing to end a video stream for."""
    if len(payload) < 2:
        return AudioTag("none")
    kind = payload[0] >> 4
    if kind == _ENHANCED:
        codec = _SOUND_FOUR_CC.get(payload[1:5].decode("latin-1"))
        packet_type = payload[0] & 0x0F
        if codec is None or packet_type not in (_SEQUENCE_START, _CODED_FRAMES):
            return AudioTag("none")
        return AudioTag("frame" if packet_type else "header", codec, payload[5:])
    codec = _SOUND_FORMATS.get(kind)
    if codec is None:
        return AudioTag("none")
    if kind == _AAC:
        return AudioTag("frame" if payload[1] else "header", codec, payload[2:])
    rate = 8000 if codec in _TELEPHONE else 0
    channels = 1 + (payload[0] & 1) if codec in _TELEPHONE else 0
    return AudioTag("frame", codec, payload[1:], rate, channels)


def _signed24(data: bytes) -> int:
    return int.from_bytes(data, signed=True)


def _byte(payload: bytes, position: int) -> int:
    if position >= len(payload):
        raise RtmpError("a video packet that is too short")
    return payload[position]
