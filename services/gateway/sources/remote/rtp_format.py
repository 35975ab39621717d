"""What an RTSP server says of its RTP packets, and how far a single packet bears it out."""

import re
from dataclasses import dataclass
from enum import Enum

MAX_FORMATS = 32
_STATIC = {  # RFC 3551, section 6
    0: ("PCMU", 8000),
    8: ("PCMA", 8000),
    14: ("MPA", 90_000),
    26: ("JPEG", 90_000),
    32: ("MPV", 90_000),
}
_RTPMAP = re.compile(
    r"a=rtpmap:([0-9]{1,3})[ \t]+([A-Za-z0-9_.-]{1,32})/([0-9]{1,9})", re.IGNORECASE
)
_MEDIA = re.compile(r"m=(audio|video) [0-9/]+ [A-Z/]+((?: [0-9]{1,3})+)", re.IGNORECASE)
# Every keyframe of these says all that its decoder needs, and so does each of their pictures.
_SELF_CONTAINED = frozenset(("JPEG", "VP8", "VP9", "AV1"))
_H264_SLICE, _H264_SPS = 1, 7
_H264_SAYS_NOTHING = (6, 8, 9)  # remarks, picture parameters, delimiters
_STAP_A, _FU_A = 24, 28
_HEVC_SETS = (32, 33)  # of the video, of the sequence
_HEVC_SAYS_NOTHING = (34, 35, 39)
_AP, _FU = 48, 49


class Beginning(Enum):
    """How a payload begins, to one who knows what came before it: with all that a decoder needs,
    in the middle of what goes on, with what needs to be known, or with nothing that tells."""

    ANEW = 1
    MIDDLE = 2
    NEEDY = 3
    UNTOLD = 4


@dataclass(frozen=True, slots=True)
class RtpFormat:
    """The format of one payload type. `rate`: ticks of its timestamps in a second."""

    name: str
    rate: int
    video: bool

    def beginning(self, payload: bytes) -> Beginning:
        if not self.video or self.name in _SELF_CONTAINED:
            return Beginning.ANEW
        if len(payload) < 6:
            return Beginning.UNTOLD
        if self.name == "H264":
            return _h264(payload)
        return _hevc(payload) if self.name in ("H265", "HEVC") else Beginning.NEEDY


def formats_of(description: str) -> dict[int, RtpFormat]:
    """Formats of the sound and video of a description (RFC 8866), by payload type; none of a type
    that means several."""
    found: dict[int, RtpFormat] = {}
    several: set[int] = set()

    def put(kind: int, name: str, rate: int, *, video: bool) -> None:
        known = RtpFormat(name.upper(), rate, video)
        if found.setdefault(kind, known) != known:
            several.add(kind)

    video = True
    for line in description.splitlines()[:4096]:
        if line.startswith("m="):
            media = _MEDIA.match(line)
            video = media is not None and media[1].lower() == "video"
            for kind in media[2].split()[:MAX_FORMATS] if media is not None else ():
                if int(kind) in _STATIC:
                    put(int(kind), *_STATIC[int(kind)], video=video)
        elif (named := _RTPMAP.match(line)) and len(found) < MAX_FORMATS and int(named[3]):
            put(int(named[1]), named[2], int(named[3]), video=video)
    return {kind: one for kind, one in found.items() if kind not in several}


def _h264(payload: bytes) -> Beginning:
    """RFC 6184, section 5."""
    kind = payload[0] & 0x1F
    if kind == _STAP_A:
        kind = payload[3] & 0x1F
    elif kind == _FU_A:
        kind = payload[1] & 0x1F
    if kind == _H264_SPS:
        return Beginning.ANEW
    if kind == _H264_SLICE:
        return Beginning.MIDDLE
    return Beginning.UNTOLD if kind in _H264_SAYS_NOTHING else Beginning.NEEDY


def _hevc(payload: bytes) -> Beginning:
    """RFC 7798, section 4.4."""
    if payload[0] & 0x81 or payload[1] >> 3 or not payload[1] & 7:  # no header of a base layer
        return Beginning.NEEDY
    kind = payload[0] >> 1
    if kind == _AP:
        kind = payload[4] >> 1 & 0x3F
    elif kind == _FU:
        kind = payload[2] & 0x3F
    if kind in _HEVC_SETS:
        return Beginning.ANEW
    if kind < 10:
        return Beginning.MIDDLE
    return Beginning.UNTOLD if kind in _HEVC_SAYS_NOTHING else Beginning.NEEDY
