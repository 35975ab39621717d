"""espeak-ng itself, in a process of its own: the library crashes on some texts, and a crash here
costs one sentence instead of the service.

Run as a script by `services.tts.engines.EspeakEngine`, it imports nothing of Sightline. It says
hello with one JSON line, then answers each request (a JSON line on standard input: text, voice,
rate) with frames of PCM, each behind its length as a 32-bit number; length 0 ends the sentence.
It ends when its standard input does.
"""

import ctypes
import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: PCM to the callback, return when done
_DONT_EXIT = 0x8000
_BUFFER_MS = 40
_RATE = 1
_WORDS_PER_MINUTE = 175
_POSITION_CHARACTER = 1
_UTF8, _END_PAUSE = 1, 0x1000  # without espeakSSML: text is text, "<" is no markup


class _Voice(ctypes.Structure):
    """`espeak_VOICE` of speak_lib.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Espeak:
    """The library of the espeakng-loader wheel. `voices` has (id, BCP 47 language) pairs."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        import espeakng_loader

        data = Path(espeakng_loader.get_data_path())
        self._write = write
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        self._library.espeak_Synth.argtypes = (
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint),
            *(ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p),
        )
        self.sample_rate: int = self._library.espeak_Initialize(
            _SYNCHRONOUS, _BUFFER_MS, str(data).encode(), _DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise RuntimeError(f"espeak-ng cannot read its data in {data}")
        self.voices: list[tuple[str, str]] = []
        self._identifiers: dict[str, bytes] = {}
        self._list_voices(data)
        # espeak-ng keeps a bare pointer: the callback must live as long as this object.
        self._callback = _Callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, rate: float) -> None:
        """Speak one sentence; its PCM goes to `write` as it is made."""
        self._library.espeak_SetVoiceByName(self._identifiers[voice])
        self._library.espeak_SetParameter(_RATE, round(_WORDS_PER_MINUTE * rate), 0)
        content = text.encode()
        self._library.espeak_Synth(
            content, len(content) + 1, 0, _POSITION_CHARACTER, 0, _UTF8 | _END_PAUSE, None, None
        )

    def _take(self, samples: Any, count: int, events: Any) -> int:
        """Called by espeak-ng while it speaks."""
        if samples and count > 0:  # no samples: the end; zero of them: only events
            self._write(ctypes.string_at(samples, 2 * count))
        return 0

    def _list_voices(self, data: Path) -> None:
        for entry in self._library.espeak_ListVoices(None):
            if not entry:
                return
            identifier = entry.contents.identifier
            # "languages" begins with a priority byte; its first entry is the voice's own.
            language = entry.contents.languages[1:].decode()
            if _has_dictionary(data, identifier.decode()):
                name = identifier.decode().rpartition("/")[2].lower()
                self.voices.append((name, language))
                self._identifiers[name] = identifier


def _has_dictionary(data: Path, identifier: str) -> bool:
    """Whether a listed voice can speak: the wheel lacks some languages' dictionaries."""
    try:
        description = (data / "lang" / identifier).read_text(errors="replace")
    except OSError:
        return False
    named = re.search(r"^dictionary\s+(\S+)", description, re.MULTILINE)
    language = re.search(r"^language\s+([A-Za-z]+)", description, re.MULTILINE)
    name = named or language
    return name is not None and (data / f"{name[1].lower()}_dict").exists()


def main() -> None:
    # Whoever ends the service does it through standard input: a running sentence may end first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    output: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not get among the frames

    def write(pcm: bytes) -> None:
        try:
            output.write(struct.pack("=I", len(pcm)) + pcm)
            output.flush()
        except OSError:  # nobody is left to hear it
            os._exit(0)

    espeak = Espeak(write)
    hello = {"sample_rate": espeak.sample_rate, "voices": espeak.voices}
    output.write(json.dumps(hello).encode() + b"\n")
    output.flush()
    for line in sys.stdin.buffer:
        espeak.speak(**json.loads(line))
        write(b"")


if __name__ == "__main__":
    main()
