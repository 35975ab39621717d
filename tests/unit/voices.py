"""Voices that tests make up: audio that says how likely it is speech, and a recogniser that hears
what it is told to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import numpy as np

from services.common.asr_client import Pause
from services.gateway.voice.activity import CHUNK_BYTES, CHUNK_S
from sightline.errors import SightlineError
from sightline.v1 import asr_pb2

SPEECH, SILENCE = 0.9, 0.05


class Told:
    """Voice activity that reads its answer from the audio: its first sample, in thousandths."""

    def process_chunk(self, audio: bytes) -> float:
        assert len(audio) == CHUNK_BYTES
        return int(np.frombuffer(audio, np.int16)[0]) / 1000


class Loud:
    """Voice activity that takes whatever is loud for speech."""

    def process_chunk(self, audio: bytes) -> float:
        return 0.9 if np.abs(np.frombuffer(audio, np.int16)).max() > 2000 else 0.05


def audio(probability: float, length_s: float) -> bytes:
    """PCM of 16 kHz that `Told` takes for speech with this probability."""
    samples = np.full(round(length_s / CHUNK_S) * CHUNK_BYTES // 2, round(1000 * probability))
    return samples.astype(np.int16).tobytes()


class Hearsay:
    """A recogniser that hears `words`, one turn after the other, at each pause and at the end; what
    has a "|" in it, up to the first at the first pause, and so on. `hear` is cleared to keep it
    busy."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.heard_s: list[float] = []  # of each turn
        self.prompts: list[str] = []
        self.pauses = 0
        self.fails: SightlineError | None = None
        self.hear = asyncio.Event()
        self.hear.set()

    async def transcribe(
        self,
        audio: AsyncIterator[bytes | Pause],
        sample_rate: int,
        *,
        language: str = "",
        prompt: str = "",
        partials: bool = False,
        background: bool = False,
    ) -> AsyncGenerator[asr_pb2.TranscribeResponse, None]:
        if self.fails is not None:
            raise self.fails
        self.prompts.append(prompt)
        parts, heard_s = self.words.pop(0).split("|"), 0.0
        text = "".join(parts)
        async for piece in audio:
            if not isinstance(piece, Pause):
                heard_s += len(piece) / 2 / sample_rate
                continue
            self.pauses += 1
            await self.hear.wait()
            parts[:2] = ["".join(parts[:2])] if self.pauses > 1 else parts[:2]
            yield asr_pb2.TranscribeResponse(text=parts[0], audio_s=heard_s)
        await self.hear.wait()
        self.heard_s.append(heard_s)
        segments = [asr_pb2.SpokenSegment(text=text, end_s=heard_s)] if text else []
        yield asr_pb2.TranscribeResponse(
            text=text, audio_s=heard_s, final=True, segments=segments, language=language or "en"
        )


def babble(length_s: float, *, seed: int) -> np.ndarray:
    """Something like loud speech, 16 kHz: pulses of a pitch through changing resonances."""
    draw = np.random.default_rng(seed)
    pieces = []
    for _ in range(round(length_s / 0.1)):
        pulses = np.zeros(1600)
        pulses[:: round(16_000 / draw.uniform(95, 140))] = 1.0
        tone = pulses + draw.normal(0, 0.02, 1600)
        for middle_hz in draw.uniform((300, 900, 2000), (900, 2000, 3400)):
            times_s = np.arange(240) / 16_000
            ringing = np.exp(-times_s * 350) * np.sin(2 * np.pi * middle_hz * times_s)
            tone = tone + 0.6 * np.convolve(pulses, ringing)[:1600]
        pieces.append(tone)
    samples = np.concatenate(pieces)
    return np.asarray(9000 * samples / np.abs(samples).max())
