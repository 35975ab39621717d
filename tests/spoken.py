"""Questions spoken by the neural voice that is installed."""

import importlib.util

from services.asr import wheels
from services.gateway.api.realtime.audio import SpeechEncoder
from services.gateway.api.realtime.settings import AudioFormat
from services.tts.voices import installed_voice
from sightline.v1 import gateway_pb2 as pb


def recorded(question: str) -> bytes | None:
    """PCM of 24 kHz, as the Realtime wire has it; None where there is no voice for it or nobody to
    hear it: `make voice-test` installs both."""
    voice = installed_voice()
    if voice is None or not (
        importlib.util.find_spec("faster_whisper") and wheels.installed("base")
    ):
        return None
    import piper

    encoder = SpeechEncoder(AudioFormat())
    pcm = b"".join(
        encoder.encode(pb.AudioChunk(sample_rate=each.sample_rate, pcm=each.audio_int16_bytes))
        for each in piper.PiperVoice.load(voice).synthesize(question)
    )
    return pcm + encoder.flush()
