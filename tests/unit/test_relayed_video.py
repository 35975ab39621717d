"""Video of another gateway's session: one stream for all viewers here, begun again as needed."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from services.gateway import metrics
from services.gateway.cluster import media
from services.gateway.cluster.media import clip_of, parts_of, picture_of, pictures_of, sound_of
from services.gateway.playback import relay
from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.h264 import EncodedPicture
from services.gateway.playback.opus import OpusPacket
from services.gateway.playback.recording import Clip
from services.gateway.playback.relay import Relay
from services.gateway.sources.source import EncodedPacket
from sightline.errors import UnavailableError
from sightline.v1 import peer_pb2
from tests.eventually import eventually
from tests.sources import START_NS, encode_clip


def picture(stamp: int, *, keyframe: bool = False) -> EncodedPicture:
    units = [b"\x67\x42\x00", b"\x68\xce", b"\x65\x88"] if keyframe else [b"\x41\x9a"]
    return EncodedPicture(units, [], keyframe=keyframe, stamp=stamp)


class Owner:
    """The other gateway: every stream gives what is put into the newest queue."""

    def __init__(self) -> None:
        self.queues: list[asyncio.Queue[EncodedPicture | None]] = []
        self.num_open = 0
        self.num_sounds = 0

    def put(self, *pictures: EncodedPicture | None) -> None:
        for one in pictures:
            self.queues[-1].put_nowait(one)

    async def pictures(self) -> AsyncGenerator[EncodedPicture, None]:
        queue: asyncio.Queue[EncodedPicture | None] = asyncio.Queue()
        self.queues.append(queue)
        self.num_open += 1
        try:
            while (one := await queue.get()) is not None:
                yield one
            raise UnavailableError("the gateway is gone")
        finally:
            self.num_open -= 1

    async def sounds(self) -> AsyncGenerator[OpusPacket, None]:
        self.num_sounds += 1
        yield b"opus", 960
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "AGAIN_S", 0.0)
    monkeypatch.setattr(relay, "REPEAT_S", 0.0)


async def test_one_stream_serves_all_viewers_from_the_first_to_the_last() -> None:
    owner = Owner()
    shown = Relay("one", owner.pictures, owner.sounds)
    first = shown.join()
    await eventually(lambda: owner.queues)
    owner.put(picture(9000, keyframe=True), picture(12000))
    assert [(await first.next())[0].keyframe for _ in range(2)] == [True, False]
    second = shown.join()  # gets the picture at once
    assert (await second.next())[0].keyframe
    assert len(owner.queues) == 1
    assert metrics.WHEP_RELAYS._value.get() == 1
    assert not owner.num_sounds
    listener = shown.sound.join()
    assert await listener.next() == (b"opus", 960)
    shown.sound.leave(listener)
    shown.leave(first)
    assert owner.num_open == 1
    shown.leave(second)
    await eventually(lambda: not owner.num_open)
    shown.leave(second)
    assert metrics.WHEP_RELAYS._value.get() == 0


async def test_a_stream_that_breaks_off_is_asked_for_again() -> None:
    owner = Owner()
    shown = Relay("one", owner.pictures, owner.sounds)
    viewer = shown.join()
    await eventually(lambda: owner.queues)
    owner.put(picture(9000, keyframe=True), None)
    await eventually(lambda: len(owner.queues) == 2)
    owner.put(picture(12000, keyframe=True))
    stamps = [(await viewer.next())[1] for _ in range(2)]
    assert stamps == sorted(stamps)
    shown.leave(viewer)


async def test_without_a_keyframe_in_hand_one_is_fetched() -> None:
    owner = Owner()
    shown = Relay("one", owner.pictures, owner.sounds)
    viewer = shown.join()
    await eventually(lambda: owner.queues)
    shown.repeat(viewer)
    await eventually(lambda: len(owner.queues) == 2 and owner.num_open == 1)
    owner.put(picture(9000, keyframe=True))
    assert (await viewer.next())[0].keyframe
    shown.repeat(viewer)
    assert (await viewer.next())[0].keyframe
    assert len(owner.queues) == 2
    shown.leave(viewer)


async def test_pictures_arrive_as_they_were_sent_and_whoever_asked_leaves() -> None:
    clip = encode_clip(num_pictures=5, gop=10)
    broadcast = Broadcast("one", asyncio.get_running_loop())
    for data, number, keyframe in clip.packets:
        packet = EncodedPacket(data, START_NS + number * 100_000_000, keyframe)
        broadcast.encoded("h264", b"", packet)
    messages = pictures_of(broadcast)
    raw = [(await anext(messages)).SerializeToString() for _ in range(5)]
    assert broadcast.num_viewers == 1
    await messages.aclose()
    assert broadcast.num_viewers == 0
    mine = [picture_of(peer_pb2.RelayResponse.FromString(one)) for one in raw]
    viewer = broadcast.join()
    for one in mine:
        sent, stamp = await viewer.next()
        assert (one.units, one.keyframe, one.stamp) == (sent.units, sent.keyframe, stamp)
    broadcast.leave(viewer)
    await broadcast.aclose()
    assert sound_of(peer_pb2.RelayResponse(units=[b"opus"], stamp=7)) == (b"opus", 7)


def test_a_clip_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "PART_BYTES", 3)
    clip = Clip(b"0123456789", 1.5, 2.5)
    parts = list(parts_of(clip))
    assert len(parts) == 4
    assert clip_of(parts) == clip
