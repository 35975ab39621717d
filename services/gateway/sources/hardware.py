"""Decoding on several threads, and on a device where this build of FFmpeg can use one."""

import functools
import logging

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

log = logging.getLogger(__name__)

# libavcodec's decoders of these take a device; ours of software are others.
DECODERS = {"av1": "av1"}


@functools.lru_cache
def accelerator(kind: str | None) -> HWAccel | None:
    """Settings for decoders of a kind of device (GATEWAY_HWACCEL); None without one. The log says
    once what is the matter. What a device cannot decode of a stream is decoded in software."""
    if not kind:
        return None
    settings = HWAccel(kind, allow_software_fallback=True)
    try:
        works = av.CodecContext.create("h264", "r", hwaccel=settings).is_hwaccel
        reason = "this build of FFmpeg has no decoder for it"
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        works = False
        reason = "there is no such device, or its driver is missing: " + type(error).__name__
    if works:
        log.info("decoding in hardware", extra={"device": kind})
        return settings
    log.warning(
        "no decoding in hardware: software does it all",
        extra={"device": kind, "reason": reason, "known": ", ".join(hwdevices_available())},
    )
    return None


def use_threads(context: av.VideoCodecContext, count: int) -> None:
    """Let a decoder that is not open yet work on so many threads. One is what sources have by
    themselves: each further one holds back a picture, and many sources share the cores anyway."""
    context.thread_count = count
    if count > 1:
        context.thread_type = "AUTO"
