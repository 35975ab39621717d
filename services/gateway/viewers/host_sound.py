"""A session's own sound, packet by packet, as passages of speech."""

from services.common.resampling import HEARD_RATE
from services.gateway.playback.opus import HZ, OpusPacket, samples_of
from services.gateway.sources.heard_sound import HeardSound
from services.gateway.sources.sound import EncodedSound
from services.gateway.voice.activity import Activity
from services.gateway.voice.passages import RULES, Passage, PassageCutter

GAP = HZ // 5  # samples between where a packet lies and where it would go on
SECOND_NS = 1_000_000_000


class HostSound:
    """Decodes a soundtrack's Opus and cuts it. One thread at a time; decoding blocks."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._decoder = HeardSound()
        self._cutter: PassageCutter | None = None
        self._begin = 0  # place of the cutter's first sample
        self._next = 0  # … where the next packet would go on

    def cut(self, packets: list[OpusPacket], *, pause: bool) -> list[tuple[int, Passage]]:
        """The passages that end in these packets, each with when it began. pause: nothing comes
        after them for now."""
        found: list[tuple[int, Passage]] = []
        for data, place in packets:
            if self._cutter is None or abs(place - self._next) > GAP:
                found += self._end()
                self._cutter = PassageCutter(self._activity, RULES)
                self._begin = self._next = place
                self._decoder = HeardSound()
            self._next += samples_of(data)
            for passage in self._cutter.feed(self._pcm(data)):
                found.append((self._when(passage), passage))
        if pause:
            found += self._end()
        return found

    def _end(self) -> list[tuple[int, Passage]]:
        cutter, self._cutter = self._cutter, None
        if cutter is None:
            return []
        return [(self._when(passage), passage) for passage in cutter.finish()]

    def _when(self, passage: Passage) -> int:
        return round(self._begin * SECOND_NS / HZ + passage.start_s * SECOND_NS)

    def _pcm(self, data: bytes) -> bytes:
        """Silence for a packet that is broken, so that times stay."""
        pcm = self._decoder.pcm(EncodedSound("opus", data, 0))
        return pcm or bytes(2 * samples_of(data) * HEARD_RATE // HZ)
