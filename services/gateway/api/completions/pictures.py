"""Pictures of a request: a session of its own that has seen them, for as long as it takes."""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Sequence

import av
import numpy as np

from services.common.threads import on_thread
from services.gateway.api.completions.chat_request import ParameterError
from services.gateway.auth.caller import Caller
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.push import PushSource
from services.gateway.sources.source import check_size
from sightline.errors import InvalidArgumentError, NotFoundError, UnavailableError
from sightline.v1 import gateway_pb2

MAX_BODY_BYTES = 12 * 1024 * 1024  # of a request, which pictures come in
SEEN_S = 60.0  # until the model has understood them
LOOK_S = 0.01
SECOND_NS = 1_000_000_000
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
NAME = "pictures"


@contextlib.asynccontextmanager
async def seen(
    sessions: Sessions, addresses: Sequence[str], model: str, caller: Caller
) -> AsyncIterator[Session]:
    """A session that has been shown these pictures in this order, and is deleted at the end.

    Raises InvalidArgumentError for what is no picture, and what CreateSession may answer.
    """
    pictures = [picture_of(address) for address in addresses]
    wanted = gateway_pb2.CreateSessionRequest(push=gateway_pb2.Push(), model=model)
    wanted.options.name = NAME
    wanted.options.delivery = gateway_pb2.DELIVERY_LOSSLESS
    session = await sessions.create_for_question(wanted, caller)
    try:
        with session.admit("push") as publisher:
            source = PushSource(publisher.sink, lossless=True, name=f"{session.id}:pictures")
            await source.start()
            try:
                await _show_in_time(session, source, pictures)
                yield session
            finally:
                await source.aclose()
    finally:
        sessions.delete(session, "answered")


async def _show_in_time(session: Session, source: PushSource, pictures: list[bytes]) -> None:
    try:
        async with asyncio.timeout(SEEN_S):
            await _show(session, source, pictures)
    except TimeoutError:
        raise UnavailableError("the model did not look at the pictures in time") from None


async def _show(session: Session, source: PushSource, pictures: list[bytes]) -> None:
    """Show each picture for as long as the model takes to look at one."""
    tubelet = max(1, session.feed.placement.description.tubelet)
    period_ns = int(SECOND_NS / session.fps)
    capture_ns = SECOND_NS
    for picture in pictures:
        for _ in range(tubelet):
            capture_ns += period_ns
            if picture.startswith(PNG):
                width, height, pixels = await on_thread(decode_png, picture, name="decode:png")
                await source.rgb(width, height, pixels, capture_ns)
            else:
                await source.jpeg(picture, capture_ns)
    while session.counts.processed < len(pictures) * tubelet:
        if not session.alive:
            raise NotFoundError("the session was deleted")
        await asyncio.sleep(LOOK_S)


def picture_of(address: str) -> bytes:
    """The JPEG or PNG in a `data:` address. Raises InvalidArgumentError for any other."""
    if not address.startswith("data:"):
        raise ParameterError(
            "image_url", "pictures come as data: addresses; this server fetches none"
        )
    head, comma, text = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ParameterError("image_url", "a data: address has its picture in base64")
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ParameterError("image_url", "this is no base64") from None
    if not picture.startswith((PNG, JPEG)):
        raise ParameterError("image_url", "a picture is JPEG or PNG")
    if picture.startswith(PNG):
        check_size(*_png_size(picture))
    return picture


def _png_size(picture: bytes) -> tuple[int, int]:
    return int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])


def decode_png(picture: bytes) -> tuple[int, int, bytes]:
    """Width, height and RGB. Raises InvalidArgumentError."""
    try:
        decoder = av.CodecContext.create("png", "r")
        frames = [*decoder.decode(av.Packet(picture)), *decoder.decode(None)]
        pixels = np.ascontiguousarray(frames[0].to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError):
        raise InvalidArgumentError("not a readable PNG picture") from None
    height, width, _ = pixels.shape
    return width, height, pixels.tobytes()
