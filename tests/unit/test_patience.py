"""Patience with live sources."""

import io

from services.gateway.sources.patience import (
    SWALLOWED_BYTES,
    SWALLOWED_S,
    Patience,
    PatientFile,
)
from tests.sources import RecordingSink


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_patience_lasts_from_picture_to_picture() -> None:
    clock, sink = Clock(), RecordingSink()
    patience = Patience(sink, first_s=5, next_s=20, clock_s=clock)
    clock.now_s = 4
    patience.shown()
    clock.now_s = 24
    patience.parsed()  # that gives no picture
    assert not patience.is_over
    clock.now_s = 24.1
    assert patience.is_over
    patience.tell()
    patience.tell()
    assert sink.notes["no_picture"] == 1


def test_what_is_read_for_long_and_gives_no_packet_is_over() -> None:
    """But not where packets are merely rare, or large."""
    clock = Clock()
    patience = Patience(RecordingSink(), first_s=1000, next_s=1000, clock_s=clock)
    clock.now_s = 2 * SWALLOWED_S
    patience.fed(2 * SWALLOWED_BYTES)
    assert not patience.is_over, "nothing is known of it yet"
    patience.parsed()
    clock.now_s += 2 * SWALLOWED_S
    patience.fed(SWALLOWED_BYTES)
    assert not patience.is_over
    patience.fed(1)
    assert patience.is_over
    patience.parsed()
    patience.fed(2 * SWALLOWED_BYTES)
    assert not patience.is_over, "it came at once"
    clock.now_s += SWALLOWED_S + 0.1
    assert patience.is_over


def test_a_file_is_at_its_end_once_patience_is_over() -> None:
    clock = Clock()
    patience = Patience(RecordingSink(), first_s=1, next_s=1000, clock_s=clock)
    patience.parsed()
    file = PatientFile(io.BytesIO(bytes(2 * SWALLOWED_BYTES)), patience)
    assert len(file.read(SWALLOWED_BYTES + 1)) == SWALLOWED_BYTES + 1
    clock.now_s = 1.1
    assert file.read(10) == b""
