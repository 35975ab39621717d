"""Packets of sound as PCM at the rate that speech is heard at."""

import av
from av.audio.resampler import AudioResampler

from services.common.resampling import HEARD_RATE
from services.gateway.sources.sound import MAX_SOUND_BYTES, SOUND_DECODERS, EncodedSound

OPUS_HZ = 48_000
SAMPLE_BYTES = 2


class HeardSound:
    """Decodes one stream of packets. One thread at a time; decoding blocks, for a tenth of a
    millisecond."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._decoder: av.AudioCodecContext | None = None
        self._resampler: AudioResampler | None = None

    def pcm(self, sound: EncodedSound) -> bytes:
        """PCM of HEARD_RATE; nothing for a packet that is broken."""
        if sound.codec not in SOUND_DECODERS or len(sound.data) > MAX_SOUND_BYTES:
            return b""
        of = (sound.codec, sound.extradata, sound.rate, sound.channels)
        if self._decoder is None or self._of != of:
            decoder = av.CodecContext.create(SOUND_DECODERS[sound.codec], "r")
            assert isinstance(decoder, av.AudioCodecContext)
            decoder.thread_count = 1
            if sound.extradata:
                decoder.extradata = sound.extradata
            decoder.sample_rate = sound.rate or OPUS_HZ
            decoder.layout = "mono" if sound.channels == 1 else "stereo"
            self._decoder, self._of = decoder, of
            self._resampler = AudioResampler("s16", "mono", HEARD_RATE)
        assert self._resampler is not None
        pcm = b""
        try:
            for frame in self._decoder.decode(av.Packet(sound.data)):
                frame.pts = None
                for made in self._resampler.resample(frame):
                    pcm += bytes(made.planes[0])[: SAMPLE_BYTES * made.samples]
        except (av.FFmpegError, ValueError):
            self._of = ()
        return pcm
