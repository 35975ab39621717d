"""H.264 in every profile and packetization that its decoder takes: aiortc alone offers two."""

from aiortc.codecs import CODECS
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecParameters

NAMES = {"h264": "H.264", "vp8": "VP8"}  # what is taken, as SDP and people call it
# Baseline, Constrained Baseline, Main, Constrained High, High, High 4:4:4 (RFC 6184, section 8.1).
# The level is not compared.
_PROFILES = ("42001f", "42e01f", "4d001f", "640c1f", "64001f", "f4001f")
_FEEDBACK = (("nack", None), ("nack", "pli"), ("goog-remb", None))
_FIRST_TYPE = 35  # payload types are those of the offer; ours must only differ


def take_every_h264() -> None:
    """Let aiortc negotiate them from now on. Idempotent."""
    videos = CODECS["video"]
    known = {
        (codec.parameters.get("profile-level-id"), codec.parameters.get("packetization-mode"))
        for codec in videos
        if codec.mimeType == "video/H264"
    }
    payload_type = _FIRST_TYPE
    for mode in ("1", "0"):
        for profile in _PROFILES:
            if (profile, mode) not in known:
                videos.append(_h264(payload_type, profile, mode))
                payload_type += 1


def _h264(payload_type: int, profile: str, mode: str) -> RTCRtpCodecParameters:
    return RTCRtpCodecParameters(
        mimeType="video/H264",
        clockRate=90_000,
        payloadType=payload_type,
        rtcpFeedback=[RTCRtcpFeedback(type=kind, parameter=word) for kind, word in _FEEDBACK],
        parameters={
            "level-asymmetry-allowed": "1",
            "packetization-mode": mode,
            "profile-level-id": profile,
        },
    )
