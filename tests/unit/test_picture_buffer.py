"""Packets of a WebRTC publisher to pictures: whole, in order, each lost one counted."""

import random
from dataclasses import dataclass

import pytest

from services.gateway.sources.whip.picture_buffer import (
    CAPACITY,
    PROVEN,
    Picture,
    PictureBuffer,
    Pictures,
)

TICKS = 3000
FIRST_NUMBER, FIRST_STAMP = 65_000, 4_294_900_000  # both wrap soon


@dataclass
class Packet:
    """What the buffer reads of aiortc's."""

    sequence_number: int
    timestamp: int
    marker: int
    _data: bytes
    ssrc: int = 1


class Camera:
    """Makes packets of pictures that say which they are."""

    def __init__(self, marks: str = "last") -> None:
        self._marks = marks
        self._number = FIRST_NUMBER
        self.num_pictures = 0

    def picture(self, num_packets: int = 1) -> list[Packet]:
        index = self.num_pictures
        self.num_pictures += 1
        packets = []
        for part in range(num_packets):
            last = part == num_packets - 1
            marker = {"last": last, "none": False, "every": True}[self._marks]
            stamp = FIRST_STAMP + index * TICKS & 0xFFFFFFFF
            data = f"{index}.{part}/{num_packets} ".encode()
            packets.append(Packet(self._number & 0xFFFF, stamp, int(marker), data))
            self._number += 1
        return packets


def whole(index: int, num_packets: int = 1) -> bytes:
    return b"".join(f"{index}.{part}/{num_packets} ".encode() for part in range(num_packets))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Buffer:
    """The buffer, and everything that came out of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.of = PictureBuffer(self.clock)
        self.out: list[Picture] = []

    def put(self, *packets: Packet) -> list[bytes]:
        """What these packets complete."""
        before = len(self.out)
        for packet in packets:
            pli, pictures = self.of.add(packet)
            assert not pli
            self._take(pictures)
        return [picture.data for picture in self.out[before:]]

    def give_up(self) -> list[bytes]:
        before = len(self.out)
        self._take(self.of.give_up())
        return [picture.data for picture in self.out[before:]]

    def _take(self, pictures: Pictures | None) -> None:
        assert pictures is None or pictures.pictures
        self.out += pictures.pictures if pictures is not None else []

    @property
    def lost(self) -> int:
        return sum(picture.lost for picture in self.out)


def trusting(camera: Camera) -> Buffer:
    """A buffer that has seen enough to believe the camera's markers."""
    buffer = Buffer()
    for _ in range(PROVEN + 1):
        buffer.put(*camera.picture(2))
    assert len(buffer.out) == camera.num_pictures
    return buffer


def test_a_picture_comes_with_its_own_last_packet() -> None:
    camera = Camera()
    buffer = trusting(camera)
    *others, last = camera.picture(3)
    assert not buffer.put(*others)
    assert buffer.put(last) == [whole(camera.num_pictures - 1, 3)]


@pytest.mark.parametrize("marks", ["none", "every"])
def test_markers_that_say_nothing_are_not_believed(marks: str) -> None:
    camera, buffer = Camera(marks), Buffer()
    for index in range(20):
        assert buffer.put(*camera.picture(3)) == ([whole(index - 1, 3)] if index else [])
    assert buffer.lost == 0


def test_markers_that_deceive_are_believed_no_longer() -> None:
    """An encoder that began with one packet to a picture, and marks each of them."""
    camera, buffer = Camera("every"), Buffer()
    for _ in range(10):
        buffer.put(*camera.picture(1))
    buffer.put(*camera.picture(3))  # it comes in parts, once
    out = [data for _ in range(5) for data in buffer.put(*camera.picture(3))]
    assert out == [whole(index, 3) for index in range(11, 15)]
    assert buffer.lost == 1


def test_what_waits_for_a_packet_comes_at_once_with_it() -> None:
    camera = Camera()
    buffer = trusting(camera)
    first, missing = camera.picture(2)
    assert not buffer.put(first)
    for _ in range(4):
        assert not buffer.put(*camera.picture(1))
    buffer.clock.now_s += 0.3
    assert buffer.of.waited_s == pytest.approx(0.3)
    assert buffer.of.missing() == [missing.sequence_number]
    begun = PROVEN + 1
    assert buffer.put(missing) == [whole(begun, 2), *(whole(begun + 1 + i) for i in range(4))]
    assert buffer.of.waited_s == 0
    assert buffer.lost == 0


def test_pictures_of_which_nothing_came_are_counted_too() -> None:
    camera = Camera()
    buffer = trusting(camera)
    for _ in range(7):
        camera.picture(3)
    assert not buffer.put(*camera.picture(2))  # its beginning may be missing
    assert not buffer.put(*camera.picture(2))
    assert not buffer.give_up()[:-1]
    assert buffer.out[-1].data == whole(camera.num_pictures - 1, 2)
    assert buffer.out[-1].lost == 8
    assert not buffer.give_up()  # nothing waits


def test_a_packet_that_comes_again_or_too_late_changes_nothing() -> None:
    camera = Camera()
    buffer = trusting(camera)
    first, second = camera.picture(2)
    assert buffer.put(first, first, second) == [whole(PROVEN + 1, 2)]
    assert not buffer.put(first, second)
    assert buffer.put(*camera.picture(1)) == [whole(PROVEN + 2)]


def test_packets_that_fill_a_line_are_no_pictures() -> None:
    camera = Camera()
    buffer = trusting(camera)
    (filling,) = camera.picture(1)
    filling._data, filling.marker = b"", 0
    assert not buffer.put(filling)
    assert buffer.put(*camera.picture(1)) == [whole(camera.num_pictures - 1)]


def test_no_more_waits_than_fits() -> None:
    camera = Camera()
    buffer = trusting(camera)
    camera.picture(1)
    for _ in range(2 * CAPACITY):
        buffer.put(*camera.picture(1))
        assert len(buffer.of._packets) <= CAPACITY
    assert buffer.lost == 2  # the missing one, and the one behind it


def test_a_sender_that_begins_anew_is_followed() -> None:
    camera = Camera()
    buffer = trusting(camera)
    begun = camera.num_pictures
    for ssrc, jump in ((1, -30_000), (2, 5), (2, 20_000)):
        for packet in [packet for _ in range(3) for packet in camera.picture(1)]:
            packet.sequence_number = packet.sequence_number + jump & 0xFFFF
            packet.ssrc = ssrc
            buffer.put(packet)
    expected = [whole(index) for index in range(begun, camera.num_pictures)]
    del expected[6]  # forwards it looks like a loss, which takes the picture behind it …
    buffer.give_up()
    assert [picture.data for picture in buffer.out[begun:]] == expected


@pytest.mark.parametrize("seed", range(20))
def test_every_picture_comes_whole_and_in_order_or_is_counted(seed: int) -> None:
    dice = random.Random(seed)
    camera = Camera(dice.choice(["last", "none"]))
    buffer, sizes = Buffer(), []
    buffer.put(*camera.picture(1))
    sizes.append(1)
    for _ in range(400):
        sizes.append(dice.choice([1, 1, 2, 5, 30]))
        packets = camera.picture(sizes[-1])
        if dice.random() < 0.3:  # overtaken
            dice.shuffle(packets)
        kept = [packet for packet in packets if dice.random() > 0.03]
        buffer.put(*kept)
        if buffer.of.missing() and dice.random() < 0.2:
            buffer.give_up()
    for _ in range(3):
        sizes.append(1)
        buffer.put(*camera.picture(1))
        while buffer.of.missing():
            buffer.give_up()
    indices = [int(picture.data.split(b".")[0]) for picture in buffer.out]
    assert indices == sorted(set(indices))
    assert all(
        picture.data == whole(index, sizes[index])
        for index, picture in zip(indices, buffer.out, strict=True)
    )
    assert buffer.lost == indices[-1] + 1 - len(indices)
    assert len(indices) > 100
