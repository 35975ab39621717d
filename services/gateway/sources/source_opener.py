"""The opener of what a caller named: a file below the media folder, or a URL within reach."""

import logging
import re
import time
from functools import partial
from pathlib import Path

import av

from services.common.redaction import redacted
from services.gateway.sources.container import (
    PROBE_OPTIONS,
    ContainerReader,
    device_of,
    no_video,
    open_file,
    open_transport_stream,
)
from services.gateway.sources.formats import FILE_FORMATS, STILL_FORMATS, still_format
from services.gateway.sources.patience import Patience
from services.gateway.sources.programme_map import ProgrammeWatch
from services.gateway.sources.remote.answers import NotOpenedError, words_of
from services.gateway.sources.remote.egress_policy import EgressPolicy
from services.gateway.sources.remote.playlist import parts_of, variant_of
from services.gateway.sources.remote.relay import Relay
from services.gateway.sources.remote.transport_stream import TransportStream
from services.gateway.sources.remote.url import SourceUrl
from services.gateway.sources.remote.web import MAX_PLAYLIST_BYTES, WebFile, WebFiles
from services.gateway.sources.source import BeyondLimitsError, FrameSink, NoVideoError
from services.gateway.sources.srt.library import SrtMissingError
from services.gateway.sources.srt.stream import SrtCaller
from sightline.errors import InvalidArgumentError, PermissionDeniedError

log = logging.getLogger(__name__)

MAX_MOVES = 3  # how often an RTSP server may send us elsewhere
# Whatever kept a URL from being opened, its caller reads this, unless a server answered in words of
# its protocol or sent what is no video: texts that told refused from silent and silent from
# forbidden would make the gateway a scanner of its own network.
NOT_OPENED = (
    "cannot open the source: no video came from there, or this server's operator does not allow "
    "its address (GATEWAY_URL_ALLOW)"
)
_AT_ONCE = {"fpsprobesize": "0", "analyzeduration": "200000"}
_TRANSPORT_STREAM = re.compile(rb"\x47.{187}\x47", re.DOTALL)
_WEB_FORMATS = (*FILE_FORMATS, "hls", "mpjpeg", "jpeg_pipe")


def locate(source: str, root: Path | None) -> Path | SourceUrl:
    """Location that a caller's name of a source means.

    Raises InvalidArgumentError for a malformed URL, an unknown scheme or a missing file,
    PermissionDeniedError for a path outside `root`, also through a symbolic link.
    """
    if not source or not source.isprintable():
        raise InvalidArgumentError("the source is empty, or has control characters")
    if "://" in source and not source.startswith("file://"):
        return SourceUrl.typed(source)
    if root is None:
        raise PermissionDeniedError("local files are not allowed: no media folder is configured")
    try:
        folder = root.resolve(strict=True)
        resolved = (folder / source.removeprefix("file://")).resolve()
        is_inside, is_file = resolved.is_relative_to(folder), resolved.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidArgumentError("the source's path cannot be resolved") from error
    if not is_inside:
        raise PermissionDeniedError("the path is outside the media folder")
    if not is_file:
        raise InvalidArgumentError("no such file in the media folder")
    return resolved


def _text_of(file: WebFile) -> str:
    """Text of a playlist; what is no text has no lines that say anything. Raises OSError."""
    text = b""
    while len(text) <= MAX_PLAYLIST_BYTES and (part := file.read(65_536)):
        text += part
        if not text.startswith(b"#EXTM3U"[: len(text)]):
            return ""
    return text.decode(errors="replace")


class SourceOpener:
    """The opener of one source, used once. `abort` may be called on any thread, also while `open`
    waits."""

    def __init__(
        self, place: Path | SourceUrl, egress: EgressPolicy, timeout_s: tuple[float, float]
    ) -> None:
        """`timeout_s`: to open a URL, and for each read from it."""
        self._place = place
        self._egress = egress
        self._timeout_s = timeout_s
        self._aborted = False
        self._files: WebFiles | None = None
        self._relay: Relay | None = None
        self._datagrams: TransportStream | None = None
        self._srt: SrtCaller | None = None

    def open(self, sink: FrameSink, part: int = 0) -> ContainerReader:
        """Open and decode the first picture, or that of a later `part` of a recording. Blocks.
        Raises InvalidArgumentError."""
        if isinstance(self._place, Path):
            return open_file(self._place, sink)
        try:
            if self._place.scheme.startswith("http"):
                return self._open_web(self._place, sink, part)
            if self._place.scheme == "udp":
                return self._open_datagrams(self._place, sink)
            if self._place.scheme == "srt":
                return self._open_srt(self._place, sink)
            return self._open_relayed(self._place, sink)
        except (BeyondLimitsError, NoVideoError):
            raise
        except SrtMissingError as error:
            raise InvalidArgumentError(f"this server reads no SRT: {error}") from None
        except (InvalidArgumentError, av.FFmpegError, OSError, ValueError) as error:
            reason = redacted(f"{type(error).__name__}: {error}")[:500]
            log.info("source not opened", extra={"reason": reason})
            if (words := words_of(error)) is not None:
                raise NotOpenedError(words, getattr(error, "wait_s", 0.0)) from error
            raise InvalidArgumentError(NOT_OPENED) from error
        except Exception as error:
            log.exception("source not opened")
            raise InvalidArgumentError(NOT_OPENED) from error

    def abort(self) -> None:
        """Whoever reads from the source gets its end."""
        self._aborted = True
        if self._files is not None:
            self._files.abort()
        if self._relay is not None:
            self._relay.close()
        if self._datagrams is not None:
            self._datagrams.abort()
        if self._srt is not None:
            self._srt.abort()

    def _open_datagrams(self, url: SourceUrl, sink: FrameSink) -> ContainerReader:
        """Open what is sent to a port of ours."""
        self._datagrams = datagrams = TransportStream(self._egress, url, self._timeout_s)
        if self._aborted:
            datagrams.abort()
        try:
            reading = open_transport_stream(ProgrammeWatch(datagrams), sink, datagrams.close)
        except BaseException:
            datagrams.close()
            raise
        datagrams.opened()
        return reading

    def _open_srt(self, url: SourceUrl, sink: FrameSink) -> ContainerReader:
        self._srt = caller = SrtCaller(self._egress, url)
        if self._aborted:
            caller.abort()
        stream = caller.open(self._timeout_s)
        try:
            return open_transport_stream(ProgrammeWatch(stream), sink, stream.close)
        except BaseException:
            stream.close()
            raise

    def _open_web(self, url: SourceUrl, sink: FrameSink, part: int) -> ContainerReader:
        missing, patience = partial(sink.noted, "segment_missing"), Patience(sink)
        self._files = files = WebFiles(self._egress, self._timeout_s, missing)
        if self._aborted:
            files.abort()
        parts: list[str] = []
        still: str | None = None
        is_playlist = False
        try:
            first = files.start(url)
            head = first.peek()
            is_playlist = (
                head.startswith(b"#EXTM3U")
                or first.is_playlist
                or url.target.partition("?")[0].endswith(".m3u8")
            )
            if is_playlist:
                text = _text_of(first)
                variant = variant_of(text)
                if variant is not None:
                    url = url.joined(variant)
                    first = files.start(url)
                    text = _text_of(first)
                first.seek(0)
                parts = parts_of(text)
                if len(parts) > 1:
                    files.put(url, parts[part % len(parts)])
                    first.close()
            elif not first.content_type.startswith("multipart/"):
                still = still_format(head)
            if _TRANSPORT_STREAM.match(head) and not first.has_end:
                reading = open_transport_stream(ProgrammeWatch(first), sink, files.abort, patience)
                files.opened(patience)
                return reading
            options = PROBE_OPTIONS | {
                "protocol_whitelist": "http,https,crypto",
                "format_whitelist": still or ",".join(_WEB_FORMATS),
                # Playlists: connections are ours. libavformat ends the process where it believes
                # that it has one of its own to use again.
                "analyzeduration": "2000000",  # us; of what is live, this is waiting
                "http_persistent": "0",
                "http_multiple": "0",
            }
            if first.content_type.startswith("multipart/"):  # a camera's pictures, one by one: all
                options |= _AT_ONCE  # is known from the first, but for a rate that nobody asks for
            container = av.open(
                files.name(url),
                "r",
                format="hls" if is_playlist else still,
                options=options,
                io_open=files.open,
                hwaccel=device_of(sink),
            )
            # A picture that a server has is of now, as cameras show theirs; a file of its is not.
            is_file = still not in STILL_FORMATS and not is_playlist and first.has_end
            live = container.duration is None and not is_file
            reading = ContainerReader.of(container, live, sink, files.abort, patience)
        except (av.FFmpegError, NoVideoError) as error:
            files.abort()
            if is_playlist:  # which leads to others, of whom nothing is told
                raise OSError(str(error)) from error
            raise no_video(error) or error from None
        except BaseException:
            files.abort()
            raise
        reading.part, reading.num_parts = part, max(1, len(parts))
        files.opened(patience if live else None)
        return reading

    def _open_relayed(self, url: SourceUrl, sink: FrameSink) -> ContainerReader:
        """Open by RTSP or RTMP, following RTSP's redirects, and without sound where that is
        refused."""
        end_s = time.monotonic() + self._timeout_s[0]
        media, patience = "video+audio", Patience(sink)
        for _ in range(MAX_MOVES + 1):
            left_s = max(0.1, end_s - time.monotonic())
            self._relay = relay = Relay(self._egress, url, left_s, patience)
            if self._aborted:
                relay.close()
            # One live video: keyframes alone would keep libavformat guessing for seconds.
            options = PROBE_OPTIONS | relay.options | {"skip_frame": "default"}
            if url.scheme.startswith("rtsp"):
                options |= {
                    "protocol_whitelist": "rtsp,rtp,tcp",
                    "format_whitelist": "rtsp",
                    "rtsp_transport": "tcp",  # to the relay; to a camera also UDP
                    "reorder_queue_size": "32",
                    "allowed_media_types": media,
                    "analyzeduration": "2000000",  # us; it waits for sound that may never come
                    "fpsprobesize": "0",  # nor for the rate of the pictures, which nobody asks for
                }
            else:
                options |= {
                    "protocol_whitelist": "rtmp,tcp",
                    "format_whitelist": "flv,live_flv",
                    "analyzeduration": "1000000",  # us; it waits for sound that may never come
                    "fpsprobesize": "0",
                }
            try:
                timeout_s = (left_s, self._timeout_s[1])
                container = av.open(
                    relay.location,
                    "r",
                    options=options,
                    timeout=timeout_s,
                    hwaccel=device_of(sink),
                )
                return ContainerReader.of(container, True, sink, relay.close, patience)
            except BaseException as error:
                relay.close()
                if not isinstance(error, av.FFmpegError | OSError):
                    raise
                if relay.refused and media != "video":
                    media = "video"
                    continue
                if relay.moved is None:
                    raise relay.not_served or error from error
            url = url.joined(relay.moved)
            if not url.scheme.startswith("rtsp"):
                break
        raise OSError("the server sends us elsewhere again and again")
