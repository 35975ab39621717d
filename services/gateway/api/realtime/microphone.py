"""Microphone of a Realtime conversation: its client's audio on the way to the gateway's ears."""

import dataclasses
from collections.abc import Callable

import av
import numpy as np

from services.gateway.api.realtime.settings import AudioFormat, Settings
from services.gateway.voice.ear import MAX_PIECE_BYTES, Ear
from services.gateway.voice.ears import Ears
from services.gateway.voice.heard import Heard
from services.gateway.voice.loudspeaker import Loudspeaker
from services.gateway.voice.turn_detector import TurnRules
from sightline.v1 import gateway_pb2

_CODECS = {"audio/pcmu": "pcm_mulaw", "audio/pcma": "pcm_alaw"}


class Microphone:
    """What its client sends is heard by turns that the server finds, or that the client commits.

    Where nobody hears (`configured` False) audio goes nowhere, as the settings that are sent back
    say. `tell` is as an ear's.
    """

    def __init__(
        self,
        ears: Ears,
        rules: TurnRules,
        tell: Callable[[Heard], None],
        card: Callable[[], gateway_pb2.ModelCard | None] = lambda: None,
        loudspeaker: Loudspeaker | None = None,
    ) -> None:
        """card: of the model that is talked with. loudspeaker: beside the microphone, where its
        client has one."""
        self._loudspeaker = loudspeaker
        self._card = card
        self._ears = ears
        self._rules = rules
        self._tell = tell
        self._settings = Settings()
        self._ear: Ear | None = None
        self._samples: dict[str, np.ndarray] = {}
        self._half = b""  # of a sample
        self._held = False  # a turn that its client commits has begun

    @property
    def configured(self) -> bool:
        return self._ears.configured

    @property
    def late_s(self) -> float:
        """How late words come, as an ear knows it."""
        return self._ear.late_s if self._ear is not None else 0.0

    def adopt(self, settings: Settings) -> Ear | None:
        """Hear as these say from here on. Gives the ear that is not needed any more, to close."""
        before, self._settings = self._settings, settings
        if _hearing(before) == _hearing(settings):
            return None
        ear, self._ear = self._ear, None
        self._half, self._held = b"", False
        return ear

    def append(self, audio: bytes, rate: int = 0) -> None:
        """Hear more, in the format of its client. rate: of PCM; 0: as that format has it. Raises
        what `Ear.feed` does."""
        if not self.configured:
            return
        pcm = self._half + self._pcm(audio)
        self._half = pcm[len(pcm) - len(pcm) % 2 :]
        for start in range(0, len(pcm) - 1, MAX_PIECE_BYTES):
            piece = pcm[start : start + MAX_PIECE_BYTES]
            self.hear(piece[: len(piece) // 2 * 2], rate or self._settings.input_format.rate)

    def hear(self, pcm: bytes, sample_rate: int) -> None:
        """Hear a piece of PCM. Raises what `Ear.feed` does."""
        if not self.configured:
            return
        if self._ear is None:
            self._ear = self._ears.make(
                self._tell,
                self._turn_rules(),
                self._settings.language,
                self._card,
                self._loudspeaker,
            )
        if self._settings.turn_detection is None and not self._held:
            self._held = True
            self._ear.hold()
        self._ear.feed(pcm, sample_rate)

    def commit(self) -> bool:
        """End the turn. Whether there is one."""
        if self._ear is None or not (self._held or self._ear.in_turn):
            return False
        self._held = False
        self._ear.commit()
        return True

    def clear(self) -> None:
        """Forget the turn."""
        self._half, self._held = b"", False
        if self._ear is not None:
            self._ear.clear()

    async def aclose(self) -> None:
        if self._ear is not None:
            await self._ear.aclose()

    def _turn_rules(self) -> TurnRules:
        wanted = self._settings.turn_detection
        if wanted is None:
            return self._rules
        silence_s = wanted.silence_ms / 1000
        return dataclasses.replace(
            self._rules, silence_s=silence_s, pause_s=min(self._rules.pause_s, silence_s)
        )

    def _pcm(self, audio: bytes) -> bytes:
        kind = self._settings.input_format.type
        if kind not in _CODECS:
            return audio
        if kind not in self._samples:
            self._samples[kind] = samples_of(AudioFormat(type=kind))
        return self._samples[kind][np.frombuffer(audio, np.uint8)].tobytes()


def samples_of(law: AudioFormat) -> np.ndarray:
    """The 16-bit sample that each byte of G.711 stands for."""
    codec = av.CodecContext.create(_CODECS[law.type], "r")
    assert isinstance(codec, av.AudioCodecContext)
    codec.layout, codec.sample_rate = "mono", law.rate
    frames = codec.decode(av.Packet(bytes(range(256))))
    return frames[0].to_ndarray().reshape(-1)


def _hearing(settings: Settings) -> object:
    """What an ear is made by."""
    silence = settings.turn_detection and settings.turn_detection.silence_ms
    return settings.input_format, silence, settings.language
