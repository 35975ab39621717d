"""The sound that comes with a source's video: packets on their way to listeners, and which of them
can be heard."""

from dataclasses import dataclass

import av

# Of what cameras, encoders and files have, with libavcodec's name for the decoder.
SOUND_DECODERS = {
    "aac": "aac",
    "aac_latm": "aac_latm",
    "ac3": "ac3",
    "adpcm_g722": "g722",
    "eac3": "eac3",
    "flac": "flac",
    "mp2": "mp2",
    "mp3": "mp3float",
    "opus": "libopus",
    "pcm_alaw": "pcm_alaw",
    "pcm_mulaw": "pcm_mulaw",
    "pcm_s16be": "pcm_s16be",
    "pcm_s16le": "pcm_s16le",
    "vorbis": "vorbis",
}
MAX_SOUND_BYTES = 64 * 1024  # of a packet: honest ones have a few hundred


@dataclass(frozen=True, slots=True)
class EncodedSound:
    """One packet of sound. `capture_ns` is on the timeline of the pictures. `rate` and `channels`
    are 0 where the bitstream says them."""

    codec: str
    data: bytes
    capture_ns: int
    extradata: bytes = b""
    rate: int = 0
    channels: int = 0


def sound_codec(stream: "av.AudioStream") -> str:
    """Codec of a container's sound as `SOUND_DECODERS` has it; "" for what is not known."""
    name: str = stream.codec_context.codec.canonical_name
    return name if name in SOUND_DECODERS else ""
