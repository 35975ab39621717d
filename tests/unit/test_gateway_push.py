"""PushFrames: pictures of every form, acknowledgements, credit, and what is refused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from services.common.jpeg import encode_jpeg
from services.gateway.api import push_stream
from services.gateway.api.push_parts import joined
from services.gateway.sessions.states import ENDED, LIVE, STALLED
from services.gateway.sources.push import PushSource
from sightline import aio
from sightline.errors import InvalidArgumentError
from sightline.frames import push_messages
from sightline.v1 import gateway_pb2 as pb
from tests.eventually import PATIENCE_S, eventually
from tests.unit.fake_worker import FakeWorker
from tests.unit.gateway_parts import KEY, SECOND_NS, Parts, picture, running

Code = grpc.StatusCode
IDLE_S = 0.2  # that a pusher may show nothing, in tests of that


def _frame(number: int, **kind: Any) -> pb.PushFramesRequest:
    kind = kind or {"rgb": pb.RawPicture(width=4, height=2, data=bytes([number % 256]) * 24)}
    return pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=(number + 1) * SECOND_NS, **kind))


def _jpeg(width: int = 32, height: int = 32) -> bytes:
    frame = picture(1, width=width, height=height).frame
    return encode_jpeg(frame.reformat(format="yuvj420p", threads=1))


END = pb.PushFramesRequest(end=pb.PushEnd())


class Pusher:
    """One PushFrames stream."""

    def __init__(self, parts: Parts) -> None:
        self.call = parts.stub.PushFrames(timeout=PATIENCE_S)
        self.acks: list[pb.PushFramesResponse] = []

    async def open(self, session: str, key: str = KEY, **options: Any) -> None:
        opening = pb.PushOpen(session=session, key=key, **options)
        await self.send(pb.PushFramesRequest(open=opening))

    async def send(self, *messages: pb.PushFramesRequest) -> None:
        for message in messages:
            await self.call.write(message)

    async def rest(self) -> pb.PushFramesResponse:
        """The last acknowledgement; raises what the stream ended with."""
        async for ack in self.call:
            self.acks.append(ack)
        return self.acks[-1]

    async def until(self, understood: int) -> None:
        async for ack in self.call:
            self.acks.append(ack)
            if ack.understood >= understood:
                return

    async def refusal(self) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rest()
        return caught.value.code(), caught.value.details() or ""


async def test_everything_pushed_is_understood_before_the_last_acknowledgement() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1, delivery=pb.DELIVERY_LOSSLESS)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(*(_frame(number) for number in range(30)), END)
        last = await pusher.rest()
        assert (last.received, last.understood, last.dropped) == (30, 30, 0)
        assert last.understood_capture_ns == 30 * SECOND_NS
        assert pusher.acks[0].credit > 0
        captured = [frame.capture_ns for frame in worker.frames[session.id]]
        assert captured == [(number + 1) * SECOND_NS for number in range(30)]
        assert session.state == ENDED
        assert session.message().source_kind == "push"


async def test_the_session_may_be_named_by_its_key_alone() -> None:
    async with running(FakeWorker()) as parts:
        await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open("")
        await pusher.send(_frame(0), END)
        assert (await pusher.rest()).understood == 1


async def test_jpeg_and_packets_are_decoded() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(_frame(0, jpeg=_jpeg()), _frame(1, jpeg=_jpeg(64, 48)), END)
        assert (await pusher.rest()).understood == 2
        packets = Pusher(parts)
        await packets.open(session.id, codec="mjpeg")
        unit = pb.PushPacket(data=_jpeg(), capture_ns=9 * SECOND_NS, keyframe=True)
        await packets.send(pb.PushFramesRequest(packet=unit), END)
        last = await packets.rest()
        assert (last.received, last.understood) == (1, 1)
        assert len(worker.frames[session.id]) == 3


async def test_acknowledgements_flow_while_frames_do() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        for number in range(3):
            await pusher.send(_frame(number))
            await pusher.until(number + 1)
        assert session.state == LIVE


async def test_a_pusher_that_vanishes_leaves_a_stalled_session_for_the_next() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        for number in range(2):
            pusher = Pusher(parts)
            await pusher.open(session.id)
            await pusher.send(_frame(number))
            await pusher.until(1)
            pusher.call.cancel()
            await eventually(lambda: session.state == STALLED)
        assert session.message().stats.frames_processed == 2


async def test_a_second_pusher_and_wrong_keys_are_refused() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        first = Pusher(parts)
        await first.open(session.id)
        await first.send(_frame(0))
        await first.until(1)
        cases = [
            (session.id, KEY, Code.FAILED_PRECONDITION),
            (session.id, "wrong-key", Code.UNAUTHENTICATED),
            (session.id, "", Code.UNAUTHENTICATED),
            ("", "wrong-key", Code.UNAUTHENTICATED),
            ("unknown", KEY, Code.NOT_FOUND),
        ]
        for name, key, code in cases:
            other = Pusher(parts)
            await other.open(name, key)
            assert (await other.refusal())[0] is code
        await first.send(_frame(1), END)
        assert (await first.rest()).understood == 2, "nobody disturbed it"


async def test_sessions_with_a_source_take_no_pusher() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.sessions.create(pb.CreateSessionRequest(source="clip.mp4"))
        pusher = Pusher(parts)
        await pusher.open(session.id, "")
        assert (await pusher.refusal())[0] is Code.FAILED_PRECONDITION


BAD = [
    (_frame(1, rgb=pb.RawPicture(width=0, height=0)), "empty"),
    (_frame(1, rgb=pb.RawPicture(width=4, height=2, data=b"x" * 23)), "24 bytes"),
    (_frame(1, rgb=pb.RawPicture(width=15360, height=8640, data=b"x")), "too large"),
    (_frame(1, rgb=pb.RawPicture(width=2**32 - 1, height=2**32 - 1)), "too large"),
    (_frame(1, jpeg=b""), "JPEG"),
    (_frame(1, jpeg=b"\xff\xd8\xff\xe0garbage"), "JPEG"),
    (_frame(1, jpeg=_jpeg().partition(b"\xff\xda")[0]), "JPEG"),  # its headers alone
    (pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=5, jpeg=_jpeg())), "before"),
    (pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=-5, jpeg=_jpeg())), "negative"),
    (pb.PushFramesRequest(frame=pb.PushFrame(capture_ns=5 * SECOND_NS)), "no picture"),
    (pb.PushFramesRequest(packet=pb.PushPacket(data=b"x")), "codec"),
    (pb.PushFramesRequest(), "empty"),
]


@pytest.mark.parametrize(("message", "words"), BAD)
async def test_a_bad_frame_is_named_and_the_session_stays(
    message: pb.PushFramesRequest, words: str
) -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(_frame(0), message)
        code, details = await pusher.refusal()
        assert code is Code.INVALID_ARGUMENT, details
        assert words in details
        assert " 2: " in details, "the second one was bad"
        await eventually(lambda: session.state == STALLED and session.counts.processed == 1)
        again = Pusher(parts)
        await again.open(session.id)
        await again.send(_frame(2), END)
        assert (await again.rest()).understood == 1


async def test_a_jpeg_of_absurd_size_is_refused_by_its_header() -> None:
    jpeg = bytearray(_jpeg())
    header = jpeg.index(b"\xff\xc0")
    jpeg[header + 5 : header + 9] = (15360).to_bytes(2) + (15360).to_bytes(2)
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(_frame(0, jpeg=bytes(jpeg)))
        code, details = await pusher.refusal()
        assert code is Code.INVALID_ARGUMENT, details
        assert "too large" in details


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([_frame(0)], Code.FAILED_PRECONDITION),
        ([END], Code.FAILED_PRECONDITION),
        ([pb.PushFramesRequest()], Code.FAILED_PRECONDITION),
    ],
)
async def test_messages_out_of_order_are_refused(
    messages: list[pb.PushFramesRequest], code: grpc.StatusCode
) -> None:
    async with running(FakeWorker()) as parts:
        await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.send(*messages)
        assert (await pusher.refusal())[0] is code


async def test_opening_twice_and_unknown_codecs_are_refused() -> None:
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        twice = Pusher(parts)
        await twice.open(session.id)
        await twice.open(session.id)
        assert (await twice.refusal())[0] is Code.FAILED_PRECONDITION
        unknown = Pusher(parts)
        await unknown.open(session.id, codec="h9000")
        assert (await unknown.refusal())[0] is Code.INVALID_ARGUMENT
        good = Pusher(parts)
        await good.open(session.id)
        await good.send(_frame(0), END)
        assert (await good.rest()).understood == 1


async def test_a_push_ends_with_its_session() -> None:
    worker = FakeWorker()
    async with running(worker, ring_frames=2) as parts:
        session = await parts.push_session(fps=1, delivery=pb.DELIVERY_LOSSLESS)
        worker.understanding.clear()
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(*(_frame(number) for number in range(20)))
        await eventually(lambda: session.waiting_frames == 5)
        parts.sessions.delete(session, "requested")
        assert (await pusher.refusal())[0] is Code.NOT_FOUND
        worker.understanding.set()


async def test_credit_shrinks_with_what_waits() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1, delivery=pb.DELIVERY_LOSSLESS)
        worker.understanding.clear()
        most = session.credit
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(*(_frame(number) for number in range(10)))
        await eventually(lambda: session.waiting_frames == 10)
        assert session.credit == most - 10
        worker.understanding.set()
        await pusher.send(END)
        await pusher.rest()
        assert pusher.acks[-1].credit == most


async def test_large_raw_pictures_pass() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        data = np.zeros((720, 1280, 3), np.uint8).tobytes()
        pusher = Pusher(parts)
        await pusher.open(session.id)
        raw = pb.RawPicture(width=1280, height=720, data=data)
        await asyncio.gather(pusher.send(_frame(0, rgb=raw), END))
        assert (await pusher.rest()).understood == 1
        assert session.message().stats.source_width == 1280


async def test_a_picture_too_large_for_one_message_comes_in_parts() -> None:
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1)
        data = np.zeros((2160, 3840, 3), np.uint8).tobytes()
        whole = _frame(0, rgb=pb.RawPicture(width=3840, height=2160, data=data))
        messages = list(push_messages(whole))
        assert all(message.ByteSize() < 2 * 1024 * 1024 for message in messages)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await asyncio.gather(pusher.send(*messages, _frame(1), END))
        last = await pusher.rest()
        assert (last.received, last.understood) == (2, 2)
        assert session.message().stats.source_width in (4, 3840)


def _part(data: bytes, *, last: bool = False) -> pb.PushFramesRequest:
    return pb.PushFramesRequest(part=pb.PushPart(data=data, last=last))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([_part(b"\xff" * 9, last=True)], "no message"),
        ([_part(b"", last=True)], "only a frame"),
        ([_part(END.SerializeToString(), last=True)], "only a frame"),
        ([_part(_part(b"x", last=True).SerializeToString(), last=True)], "only a frame"),
        ([_part(b"x"), END], "before the parts"),
        ([_part(b"x")], "not all there"),
        ([_part(bytes(1024 * 1024))] * 65, "too large"),
    ],
)
async def test_parts_that_are_no_message_are_refused(
    messages: list[pb.PushFramesRequest], words: str
) -> None:
    async def incoming() -> AsyncIterator[pb.PushFramesRequest]:
        for message in messages:
            yield message

    with pytest.raises(InvalidArgumentError, match=words):
        async for _ in joined(incoming()):
            pass


async def test_parts_before_the_key_are_refused() -> None:
    async with running(FakeWorker()) as parts:
        await parts.push_session()
        pusher = Pusher(parts)
        await pusher.send(_part(b"x"))
        code, _ = await pusher.refusal()
        assert code is Code.FAILED_PRECONDITION


async def test_a_pusher_who_shows_nothing_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its stream is open, and even where it sends something that gives no picture."""
    monkeypatch.setattr(push_stream, "IDLE_S", IDLE_S)
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        silent = Pusher(parts)
        await silent.open(session.id)
        code, text = await silent.refusal()
        assert code == Code.DEADLINE_EXCEEDED
        assert text == "no picture for 0.2 seconds: push again when there is one"
        garbled = Pusher(parts)
        await garbled.open(session.id, codec="h264")
        refused = asyncio.create_task(garbled.refusal())
        number = 0
        while not refused.done():
            number += 1
            unit = pb.PushPacket(data=b"\0\0\1\x65none", capture_ns=number, keyframe=True)
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await garbled.send(pb.PushFramesRequest(packet=unit))
            await asyncio.sleep(0.01)
        assert (await refused)[0] == Code.DEADLINE_EXCEEDED
        assert session.counts.noted["no_picture"] == 2
        after = Pusher(parts)
        await after.open(session.id)
        await after.send(_frame(0), END)
        assert (await after.rest()).understood == 1


async def test_a_pusher_whose_pictures_are_not_taken_is_not_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(push_stream, "IDLE_S", IDLE_S)
    monkeypatch.setattr(push_stream, "HEARTBEAT_S", 0.05)
    worker = FakeWorker()
    async with running(worker) as parts:
        session = await parts.push_session(fps=1, delivery=pb.DELIVERY_LOSSLESS)
        worker.understanding.clear()
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(*(_frame(number) for number in range(80)))
        blocked = asyncio.create_task(pusher.until(80))
        await asyncio.sleep(1.0)  # several times as long as it may be idle
        assert not blocked.done()
        worker.understanding.set()
        await blocked


async def test_a_picture_that_is_being_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that came just before patience was over, at a machine that is busy."""
    take = PushSource.jpeg

    async def slowly(source: PushSource, data: bytes, capture_ns: int = 0) -> None:
        await asyncio.sleep(3 * IDLE_S)
        await take(source, data, capture_ns)

    monkeypatch.setattr(PushSource, "jpeg", slowly)
    monkeypatch.setattr(push_stream, "IDLE_S", IDLE_S)
    async with running(FakeWorker()) as parts:
        session = await parts.push_session(fps=1)
        pusher = Pusher(parts)
        await pusher.open(session.id)
        await pusher.send(_frame(0, jpeg=_jpeg()), END)
        assert (await pusher.rest()).understood == 1


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("another", [False, True])
async def test_a_picture_that_crosses_the_servers_goodbye_is_sent_again(
    lossless: bool, another: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on its way when patience was over: the server has not taken it."""
    streams: list[push_stream.PushStream] = []
    take = push_stream.PushStream._take

    async def late(stream: push_stream.PushStream, *given: Any) -> None:
        streams.append(stream)
        if len(streams) == 1:
            await asyncio.Event().wait()
        await take(stream, *given)

    monkeypatch.setattr(push_stream.PushStream, "_take", late)
    monkeypatch.setattr(push_stream, "IDLE_S", IDLE_S)
    delivery = pb.DELIVERY_LOSSLESS if lossless else pb.DELIVERY_NEWEST
    async with running(FakeWorker()) as parts, aio.connect(parts.address) as client:
        session = await parts.push_session(fps=1, delivery=delivery)
        pusher = (await client.session(session.id, key=KEY)).pusher()
        await pusher.send(_jpeg(), SECOND_NS)
        await eventually(lambda: pusher._reader is not None and pusher._reader.done())
        if another:
            await pusher.send(_jpeg(), 2 * SECOND_NS)
        await pusher.end()
        assert session.counts.processed == pusher.sent == 1 + another
        assert session.state == ENDED


@pytest.mark.parametrize("lossless", [False, True])
async def test_a_program_with_rare_pictures_is_not_told_of_it(
    lossless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK pushes again when there is one."""
    monkeypatch.setattr(push_stream, "IDLE_S", IDLE_S)
    delivery = pb.DELIVERY_LOSSLESS if lossless else pb.DELIVERY_NEWEST
    async with running(FakeWorker()) as parts, aio.connect(parts.address) as client:
        session = await parts.push_session(fps=1, delivery=delivery)
        pusher = (await client.session(session.id, key=KEY)).pusher()
        for number in range(3):
            await pusher.send(_jpeg(), (number + 1) * SECOND_NS)
            await eventually(lambda: pusher._reader is not None and pusher._reader.done())
        await pusher.end()
        assert session.counts.noted["no_picture"] == 3
        assert session.counts.processed == 3
        assert session.state == STALLED
