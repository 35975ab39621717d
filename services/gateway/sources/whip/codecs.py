"""What is taken over WebRTC: every codec of libavcodec's that RTP carries, where aiortc knows two.

aiortc keeps its codecs in module tables and names its depacketizers in one function; both are
added to once, for the whole process.
"""

from collections.abc import Sequence

from aiortc import RTCPeerConnection, rtcrtpreceiver, rtp
from aiortc.codecs import CODECS, depayload
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecParameters
from aiortc.sdp import SessionDescription

from services.gateway.sources.whip.depacketizers import framed

# What is taken, as SDP and people call it.
NAMES = {"h264": "H.264", "vp8": "VP8", "vp9": "VP9", "av1": "AV1", "h265": "H.265"}
DECODED_AS = {"h265": "hevc"}  # where decoders have another name
FRAMED = ("VP9", "AV1", "H265")  # what aiortc has no depacketizer for
# Baseline, Constrained Baseline, Main, Constrained High, High, High 4:4:4 (RFC 6184, section 8.1).
# The level is not compared.
_PROFILES = ("42001f", "42e01f", "4d001f", "640c1f", "64001f", "f4001f")
_FEEDBACK = (("nack", None), ("nack", "pli"), ("goog-remb", None))
_FIRST_TYPE = 35  # payload types are those of the offer; ours must only differ
# aiortc knows the last of these; browsers that offer many codecs take the others too (RFC 5761,
# section 4, keeps RTCP's out).
_DYNAMIC_TYPES = (*range(35, 64), *range(96, 128))


def take_every_codec() -> None:
    """Let aiortc negotiate and depacketize them from now on. Idempotent."""
    rtp.DYNAMIC_PAYLOAD_TYPES = _DYNAMIC_TYPES  # type: ignore[assignment]
    rtcrtpreceiver.depayload = _depayload  # type: ignore[attr-defined]
    videos = CODECS["video"]
    wanted = [
        _codec("H264", _h264_parameters(profile, mode)) for mode in "10" for profile in _PROFILES
    ]
    wanted += [_codec(name, {}) for name in FRAMED]
    known = [(codec.mimeType, _key_of(codec)) for codec in videos]
    payload_type = _FIRST_TYPE
    for codec in wanted:
        if (codec.mimeType, _key_of(codec)) not in known:
            codec.payloadType = payload_type
            videos.append(codec)
            payload_type += 1


def keep_parameters(peer: RTCPeerConnection) -> None:
    """Answer with the parameters that were offered, between offer and answer: aiortc would say
    nothing of a profile, which then means another one."""
    offered = {
        (str(media.rtp.muxId), codec.payloadType): codec.parameters
        for media in SessionDescription.parse(peer.remoteDescription.sdp).media
        for codec in media.rtp.codecs
    }
    for transceiver in peer.getTransceivers():
        for codec in transceiver._codecs:
            if codec.name in FRAMED:
                codec.parameters = {
                    name: value
                    for name, value in offered[str(transceiver.mid), codec.payloadType].items()
                    if not name.startswith("sprop-")  # of the stream they will send, not of ours
                }


def _depayload(codec: RTCRtpCodecParameters, payload: bytes) -> bytes:
    """What aiortc's jitter buffer joins to a picture. Raises ValueError."""
    return framed(payload) if codec.name in FRAMED else depayload(codec, payload)


def _key_of(codec: RTCRtpCodecParameters) -> Sequence[object]:
    return [codec.parameters.get(name) for name in ("profile-level-id", "packetization-mode")]


def _h264_parameters(profile: str, mode: str) -> dict[str, int | str | None]:
    return {
        "level-asymmetry-allowed": "1",
        "packetization-mode": mode,
        "profile-level-id": profile,
    }


def _codec(name: str, parameters: dict[str, int | str | None]) -> RTCRtpCodecParameters:
    return RTCRtpCodecParameters(
        mimeType=f"video/{name}",
        clockRate=90_000,
        rtcpFeedback=[RTCRtcpFeedback(type=kind, parameter=word) for kind, word in _FEEDBACK],
        parameters=parameters,
    )
