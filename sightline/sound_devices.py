"""The microphone and the loudspeaker of this machine, or files in their place. Needs PyAV."""

import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from sightline.errors import InvalidArgumentError

__all__ = ["Loudspeaker", "SoundFile", "WaveFile", "microphone", "speaker"]

HEARD_RATE = 16_000
PIECE_S = 0.05
DEFAULT = "default"
_MICROPHONES = {
    "darwin": ("avfoundation", ":{}", "0"),
    "win32": ("dshow", "audio={}", ""),
    "linux": ("alsa", "{}", DEFAULT),
}
_SPEAKERS = {
    "darwin": ("audiotoolbox", "{}", "-"),
    "linux": ("alsa", "{}", DEFAULT),
}


class Speaker(Protocol):
    """Takes sound and plays it at its pace: `write` returns when there is room for more."""

    def write(self, pcm: bytes, sample_rate: int) -> None: ...
    def close(self) -> None: ...


class SoundFile:
    """Sound that comes in pieces of PCM of HEARD_RATE: of a device as it is heard, of a file at its
    own pace. `live`: it has no end."""

    def __init__(self, container: Any, av: ModuleType, *, live: bool) -> None:
        self.live = live
        self._container = container
        self._resampler = av.AudioResampler("s16", "mono", HEARD_RATE, round(HEARD_RATE * PIECE_S))
        self._errors = (av.FFmpegError, OSError)

    def pieces(self) -> Iterator[bytes]:
        """Blocks until the next one is there."""
        began_s = time.monotonic()
        for number, piece in enumerate(self._decoded(), 1):
            if not self.live:
                time.sleep(max(0.0, began_s + number * PIECE_S - time.monotonic()))
            yield piece

    def _decoded(self) -> Iterator[bytes]:
        try:
            for frame in self._container.decode(audio=0):
                frame.pts = None
                yield from self._made(frame)
        except self._errors:
            return
        yield from self._made(None)

    def _made(self, frame: Any) -> Iterator[bytes]:
        for made in self._resampler.resample(frame):
            yield bytes(made.planes[0])[: 2 * made.samples]

    def close(self) -> None:
        self._container.close()


class Loudspeaker:
    """A device that plays."""

    def __init__(self, place: str, driver: str, av: ModuleType) -> None:
        self._av = av
        self._place, self._driver = place, driver
        self._container: Any = None
        self._stream: Any = None
        self._rate = 0
        self._num_samples = 0
        self._open(HEARD_RATE)  # so that it is known at once whether it can be

    def write(self, pcm: bytes, sample_rate: int) -> None:
        if sample_rate != self._rate:
            self.close()
            self._open(sample_rate)
        packet = self._av.Packet(pcm)
        packet.stream = self._stream
        packet.pts = packet.dts = self._num_samples
        packet.time_base = self._stream.time_base
        self._num_samples += len(pcm) // 2
        self._container.mux(packet)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self, sample_rate: int) -> None:
        try:
            self._container = self._av.open(self._place, "w", format=self._driver)
            self._stream = self._container.add_stream("pcm_s16le", rate=sample_rate)
            self._stream.layout = "mono"
            self._container.start_encoding()
        except ValueError:
            raise _unsupported(self._driver, "loudspeakers") from None
        except (self._av.FFmpegError, OSError) as error:
            raise _refused(error, self._driver, self._place, "--speaker none") from None
        self._rate, self._num_samples = sample_rate, 0


class WaveFile:
    """A file in the place of a loudspeaker, written at the pace at which it would be played."""

    def __init__(self, path: str) -> None:
        self._file = wave.open(path, "wb")  # noqa: SIM115 - `close` does
        self._file.setnchannels(1)
        self._file.setsampwidth(2)
        self._due_s = time.monotonic()
        self._rate = 0

    def write(self, pcm: bytes, sample_rate: int) -> None:
        if not self._rate:
            self._rate = sample_rate
            self._file.setframerate(sample_rate)
        self._file.writeframes(pcm)
        self._due_s = max(self._due_s, time.monotonic() - 1.0) + len(pcm) / 2 / sample_rate
        time.sleep(max(0.0, self._due_s - time.monotonic()))

    def close(self) -> None:
        if not self._rate:
            self._file.setframerate(HEARD_RATE)
        self._file.close()


def microphone(name: str, av: ModuleType, platform: str = sys.platform) -> SoundFile:
    """The microphone of this name, or "default"; or a sound file. Raises InvalidArgumentError, with
    what to do."""
    if Path(name).is_file():
        try:
            container = av.open(name)
        except (av.FFmpegError, ValueError) as error:
            raise InvalidArgumentError(f"{name} is no sound that can be read: {error}") from None
        if not container.streams.audio:
            raise InvalidArgumentError(f"{name} has no sound")
        return SoundFile(container, av, live=False)
    if platform not in _MICROPHONES:
        raise InvalidArgumentError(f"microphones are not read on {platform}: give a file")
    driver, place, default = _MICROPHONES[platform]
    if name == DEFAULT and not default:
        raise InvalidArgumentError("name the microphone: --microphone 'Microphone (…)'")
    place = place.format(default if name == DEFAULT else name)
    try:
        return SoundFile(av.open(place, format=driver), av, live=True)
    except ValueError:
        raise _unsupported(driver, "microphones") from None
    except (av.FFmpegError, OSError) as error:
        raise _refused(error, driver, place, "--microphone FILE.wav") from None


def speaker(name: str, av: ModuleType, platform: str = sys.platform) -> Speaker | None:
    """The loudspeaker of this name, or "default"; None for "none"; or a WAV file that is written.
    Raises InvalidArgumentError, with what to do."""
    if name == "none":
        return None
    if name.endswith(".wav"):
        return WaveFile(name)
    if platform not in _SPEAKERS:
        raise InvalidArgumentError(f"nothing is played on {platform}: --speaker none, or a .wav")
    driver, place, default = _SPEAKERS[platform]
    return Loudspeaker(place.format(default if name == DEFAULT else name), driver, av)


def _unsupported(driver: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"this build of PyAV has no {driver} {what}: talk on the server's page, or give files"
    )


def _refused(error: Any, driver: str, place: str, instead: str) -> InvalidArgumentError:
    why = error.strerror or type(error).__name__
    return InvalidArgumentError(
        f"cannot open {driver} {place}: {why}. Name another device, or give {instead}; the "
        "server's page talks, too"
    )
