"""Video on its way to viewers: what is forwarded, how it is packed, what a slow viewer loses."""

import asyncio
from collections import Counter

import av
from aiortc.codecs.h264 import h264_depayload

from services.gateway.playback.broadcast import Broadcast
from services.gateway.playback.gop import MAX_PICTURES as MAX_CACHED
from services.gateway.playback.h264 import (
    MAX_PAYLOAD_BYTES,
    EncodedPicture,
    configuration_of,
    is_forwardable,
    packetise,
    units_of,
)
from services.gateway.playback.subscription import MAX_PICTURES, NO_KEYFRAME, SLOW, Subscription
from services.gateway.playback.transcoder import shown_size
from services.gateway.sources.source import DecodedFrame, EncodedPacket
from sightline.display import Turn
from tests.sources import START_NS, encode_clip, picture_array


def picture(stamp: int, *, keyframe: bool = False) -> EncodedPicture:
    return EncodedPicture([b"\x65" if keyframe else b"\x41"], [], keyframe=keyframe, stamp=stamp)


def test_only_what_is_shown_in_order_is_forwarded() -> None:
    for b_frames, forwarded in ((0, True), (2, False)):
        clip = encode_clip(num_pictures=12, b_frames=b_frames)
        ways = [is_forwardable(list(units_of(data, 0))) for data, _, _ in clip.packets]
        assert all(ways) == forwarded
    high_10 = b"\x67\x6e\x00\x1f"
    assert not is_forwardable([high_10])


def test_what_is_to_be_turned_is_not_forwarded() -> None:
    """Browsers would show it as it lies."""
    for quarters in range(4):
        for mirrored in (False, True):
            turn = Turn(mirrored, quarters)
            note = turn.message("h264", b"").removeprefix(b"\0\0\0\1")
            assert is_forwardable([note]) == (turn == Turn())
    assert is_forwardable([b"\x06\x2f", b"\x06\x05\x03abc", b"\x06\x2f\x03\xff\xff\xff"])


def test_payloads_hold_what_was_packed() -> None:
    units = [b"\x67" + b"s" * 20, b"\x65" + bytes(range(256)) * 20]
    payloads = packetise(units)
    assert max(map(len, payloads)) <= MAX_PAYLOAD_BYTES
    packed = b"".join(h264_depayload(payload) for payload in payloads)
    assert packed == b"".join(b"\0\0\0\1" + unit for unit in units)


def test_lengths_and_start_codes_are_read_alike_and_a_cut_unit_ends_it() -> None:
    units = [b"\x09\x10", b"\x41\x9a" + b"x" * 300]
    by_length = b"".join(len(unit).to_bytes(4) + unit for unit in units)
    by_code = b"\0\0\0\1" + units[0] + b"\0\0\1" + units[1]
    assert list(units_of(by_length, 4)) == list(units_of(by_code, 0)) == units
    assert list(units_of(by_length[:-1], 4)) == units[:1]
    assert list(units_of(b"", 4)) == list(units_of(b"", 0)) == []
    configuration = b"\x01\x42\x00\x1f\xff\xe1\x00\x04\x67\x42\x00\x1f\x01\x00\x02\x68\xce"
    assert configuration_of(configuration) == (4, [b"\x67\x42\x00\x1f", b"\x68\xce"])
    assert configuration_of(configuration[:12])[1] == [b"\x67\x42\x00\x1f"]


async def test_a_slow_viewer_loses_pictures_and_nobody_else_does() -> None:
    drops: Counter[str] = Counter()

    def dropped(reason: str, count: int) -> None:
        drops[reason] += count

    slow = Subscription(dropped)
    slow.put(picture(0))  # nothing before the first keyframe
    assert drops == {NO_KEYFRAME: 1}
    slow.put(picture(1, keyframe=True))
    for stamp in range(2, MAX_PICTURES + 2):
        slow.put(picture(stamp))
    assert drops == {NO_KEYFRAME: 1, SLOW: MAX_PICTURES + 1}
    assert slow.needs_keyframe
    slow.put(picture(5000, keyframe=True))
    sent, stamp = await slow.next()
    assert (sent.keyframe, stamp) == (True, 5000)


async def test_times_grow_whatever_comes() -> None:
    viewer = Subscription(lambda reason, count: None)
    viewer.begin([picture(90_000, keyframe=True), picture(93_000), picture(96_000)])
    stamps = [(await viewer.next())[1] for _ in range(3)]
    assert stamps == [95_998, 95_999, 96_000]  # all at once
    viewer.begin([picture(90_000, keyframe=True), picture(96_000)])  # again, after a loss
    viewer.put(picture(99_000))
    viewer.put(picture(5))  # of another clock
    viewer.put(picture(3_005))
    stamps += [(await viewer.next())[1] for _ in range(5)]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - stamps[-2] == 3_000


async def test_whoever_joins_gets_what_came_since_the_keyframe() -> None:
    clip = encode_clip(num_pictures=20, gop=8)
    broadcast = Broadcast("test", asyncio.get_running_loop())
    for data, index, keyframe in clip.packets:
        broadcast.encoded("h264", b"", EncodedPacket(data, START_NS + index * 10**8, keyframe))
    assert not broadcast.forwards  # nobody has looked
    viewer = broadcast.join()
    assert broadcast.forwards
    got = [await viewer.next() for _ in range(4)]
    assert [picture.keyframe for picture, _ in got] == [True, False, False, False]
    assert not viewer.is_waiting
    assert got[0][0].payloads is got[0][0].payloads  # packed once
    broadcast.leave(viewer)
    assert broadcast.num_viewers == 0
    await broadcast.aclose()
    assert broadcast.join().closed


async def test_a_keyframe_is_wanted_while_a_viewer_has_none() -> None:
    clip = encode_clip(num_pictures=8, gop=8)
    packets = [EncodedPacket(data, START_NS + n * 10**8, key) for data, n, key in clip.packets]
    broadcast = Broadcast("test", asyncio.get_running_loop())
    assert not broadcast.encoded("h264", b"", packets[1])
    viewer = broadcast.join()
    assert broadcast.encoded("h264", b"", packets[2])
    assert not broadcast.encoded("h264", b"", packets[0])
    assert (await viewer.next())[0].keyframe
    await broadcast.aclose()


async def test_without_viewers_packets_are_kept_and_not_looked_into() -> None:
    clip = encode_clip(num_pictures=20, gop=8)
    loop = asyncio.get_running_loop()
    broadcast = Broadcast("test", loop)
    told: list[object] = []

    def send() -> None:
        for data, index, keyframe in clip.packets:
            broadcast.encoded("h264", b"", EncodedPacket(data, START_NS + index * 10**8, keyframe))

    broadcast._on_loop = lambda *call: told.append(call)  # type: ignore[method-assign]
    await asyncio.to_thread(send)
    assert not told
    assert not broadcast._sent.items
    del broadcast._on_loop
    viewer = broadcast.join()
    assert (await viewer.next())[0].keyframe
    broadcast.leave(viewer)
    assert not broadcast._sent.items
    again = broadcast.join()
    got = [await again.next() for _ in range(4)]
    assert [picture.keyframe for picture, _ in got] == [True, False, False, False]
    await broadcast.aclose()


async def test_whoever_joins_between_far_keyframes_gets_the_encoding_until_the_next() -> None:
    clip = encode_clip(num_pictures=8, gop=8)
    key, *others = [
        EncodedPacket(data, START_NS + n * 10**8, keyframe) for data, n, keyframe in clip.packets
    ]
    broadcast = Broadcast("test", asyncio.get_running_loop())
    broadcast.encoded("h264", b"", key)
    for _ in range(MAX_CACHED // len(others) + 1):  # more than is kept
        for packet in others:
            broadcast.encoded("h264", b"", packet)
    early = broadcast.join()
    broadcast.encoded("h264", b"", key)  # the source's: what follows is forwarded
    assert (await early.next())[0].keyframe
    for _ in range(MAX_CACHED // len(others) + 1):
        for packet in others:
            broadcast.encoded("h264", b"", packet)
            await early.next()
    late = broadcast.join()
    assert late.needs_keyframe
    image = av.VideoFrame.from_ndarray(picture_array(0, 160, 120), format="rgb24")
    broadcast.picture(DecodedFrame(image, START_NS, "stream"))
    encoded, _ = await asyncio.wait_for(late.next(), 20)
    assert encoded.keyframe
    broadcast.encoded("h264", b"", others[0])
    assert not late.is_waiting  # that is for those who have what it refers to
    assert not (await early.next())[0].keyframe
    broadcast.encoded("h264", b"", key)
    assert (await late.next())[0] is (await early.next())[0]
    assert broadcast._transcoder is None
    await broadcast.aclose()


def test_sizes_that_viewers_are_shown() -> None:
    assert shown_size(161, 121) == (160, 120)
    assert shown_size(3840, 2160) == (1280, 720)
    assert shown_size(1, 1) == (2, 2)
