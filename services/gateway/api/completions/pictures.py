"""Pictures of a request: a session of its own that has seen them, for as long as it takes."""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Sequence

import av
import numpy as np

from services.common.threads import on_thread
from services.gateway.api.completions.errors import ParameterError
from services.gateway.auth.caller import Caller
from services.gateway.config import GatewayConfig
from services.gateway.sessions.session import Session
from services.gateway.sessions.sessions import Sessions
from services.gateway.sources.push import PushSource
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.remote.web import WebFiles
from services.gateway.sources.source import check_size
from sightline.errors import InvalidArgumentError, NotFoundError, UnavailableError
from sightline.v1 import gateway_pb2

MAX_BODY_BYTES = 12 * 1024 * 1024  # of a request, which pictures come in
MAX_PICTURE_BYTES = 8 * 1024 * 1024  # of one that is fetched
FETCH_S = 15.0  # for all pictures of a request
SEEN_S = 60.0  # until the model has understood them
LOOK_S = 0.01
SECOND_NS = 1_000_000_000
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
NAME = "pictures"
_WEB = ("http://", "https://")


class Pictures:
    """The pictures of requests, read and shown to a model. One event loop."""

    def __init__(self, config: GatewayConfig, sessions: Sessions) -> None:
        self._sessions = sessions
        self._egress: EgressPolicy | None = None
        if config.image_urls:
            self._egress = EgressPolicy(config.url_allow, public=not config.edge)

    @contextlib.asynccontextmanager
    async def seen(
        self, addresses: Sequence[str], model: str, caller: Caller
    ) -> AsyncIterator[Session]:
        """A session that has been shown these pictures in this order, and is deleted at the end.

        Raises InvalidArgumentError for what is no picture, and what CreateSession may answer.
        """
        pictures = await self._read(addresses)
        wanted = gateway_pb2.CreateSessionRequest(push=gateway_pb2.Push(), model=model)
        wanted.options.name = NAME
        wanted.options.delivery = gateway_pb2.DELIVERY_LOSSLESS
        session = await self._sessions.create_for_question(wanted, caller)
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
            self._sessions.delete(session, "answered")

    async def _read(self, addresses: Sequence[str]) -> list[bytes]:
        if not any(address.startswith(_WEB) for address in addresses):
            return [picture_of(address) for address in addresses]
        if self._egress is None:
            raise ParameterError(
                "image_url", "pictures come as data: addresses; this server fetches none"
            )
        files = WebFiles(self._egress, (FETCH_S, FETCH_S))
        try:
            return await on_thread(_read_all, files, addresses, name="fetch:pictures")
        except OSError:  # which of them, and why, would make a port scanner of us
            raise ParameterError("image_url", "a picture could not be fetched") from None
        finally:
            files.abort()


def picture_of(address: str) -> bytes:
    """The JPEG or PNG in a `data:` address. Raises InvalidArgumentError for any other."""
    head, comma, text = address.partition(",")
    if not (head.startswith("data:") and comma and head.endswith(";base64")):
        raise ParameterError("image_url", "is a data: address with a picture in base64")
    try:
        picture = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ParameterError("image_url", "this is no base64") from None
    return _checked(picture)


def _read_all(files: WebFiles, addresses: Sequence[str]) -> list[bytes]:
    """Fetch those of the web, one after the other. Raises OSError. Runs on a thread."""
    found = []
    for address in addresses:
        if not address.startswith(_WEB):
            found.append(picture_of(address))
            continue
        file = files.open(address, 0, {})
        picture = b""
        while len(picture) <= MAX_PICTURE_BYTES and (data := file.read(65536)):
            picture += data
        file.close()
        if len(picture) > MAX_PICTURE_BYTES:
            raise ParameterError("image_url", f"a picture has at most {MAX_PICTURE_BYTES} bytes")
        found.append(_checked(picture))
    return found


def check_still(picture: bytes) -> None:
    """Raise InvalidArgumentError for what is neither JPEG nor PNG, or of an absurd size; JPEG's is
    looked at when it is shown."""
    if not picture.startswith((PNG, JPEG)):
        raise InvalidArgumentError("a picture is JPEG or PNG")
    if picture.startswith(PNG):
        check_size(int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24]))


def _checked(picture: bytes) -> bytes:
    try:
        check_still(picture)
    except InvalidArgumentError as error:
        raise ParameterError("image_url", error.message) from None
    return picture


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
            await push_still(source, picture, capture_ns)
    while session.counts.processed < len(pictures) * tubelet:
        if not session.alive:
            raise NotFoundError("the session was deleted")
        await asyncio.sleep(LOOK_S)


async def push_still(source: PushSource, picture: bytes, capture_ns: int) -> None:
    """Show a checked picture. Raises InvalidArgumentError for one that cannot be read."""
    if picture.startswith(PNG):
        width, height, pixels = await on_thread(decode_png, picture, name="decode:png")
        await source.rgb(width, height, pixels, capture_ns)
    else:
        await source.jpeg(picture, capture_ns)


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
