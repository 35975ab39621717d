"""Formats of files that are read, and what a file is by how it begins."""

import re

from services.gateway.sources.source import NoVideoError

FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "avi",
    "flv",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "h264",
    "hevc",
    "obu",
    "ivf",
    "mjpeg",
    "gif",
    "ogg",
    "asf",
    "mxf",
    "nut",
    "yuv4mpegpipe",
    "dv",
)
KINDS = (
    "MP4, MOV, Matroska, WebM, AVI, FLV, MPEG, MXF, Ogg, ASF, NUT, Y4M, GIF, bare H.264, HEVC and "
    "AV1, and pictures: JPEG, PNG, WebP and BMP"
)
# Still pictures, by how they begin. libavformat would take them for the first of a numbered series
# of files.
_STILLS = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg_pipe"),
    # And animated ones: palettes, profiles and texts may come first, but no picture.
    (re.compile(rb"\x89PNG\r\n\x1a\n(?:(?!IDAT).)*?acTL", re.DOTALL), "apng"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png_pipe"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp_pipe"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "bmp_pipe"),
)
STILL_FORMATS = frozenset(name for _, name in _STILLS) - {"apng"}
HEAD_BYTES = 64 * 1024  # of a file, looked at for what it is
# HEIC and AVIF whose picture is put together from others (ISO 23008-12, 6.6.2.3): libavformat gives
# each of these, and one tile of it would be taken for the whole.
_TILED = re.compile(rb"infe(?:\x02.{7}|\x03.{9})grid", re.DOTALL)
_PAGE = re.compile(rb"\s*(?:<!doctype html|<html)", re.IGNORECASE)
_EXTENDED_WEBP, _ANIMATED = re.compile(rb"RIFF....WEBPVP8X.....", re.DOTALL), 0x02


def still_format(head: bytes) -> str | None:
    """libavformat's name for the format of a still picture that begins like that; None for what is
    none. Raises NoVideoError for what is not read."""
    if not head:
        raise NoVideoError("cannot open the source: the file is empty")
    if _PAGE.match(head):
        raise NoVideoError(
            "cannot open the source: it is a web page, no video: it needs the video's own address"
        )
    if _EXTENDED_WEBP.match(head) and head[20] & _ANIMATED:
        raise NoVideoError(
            "cannot open the source: an animated WebP is not read here: GIF, PNG and video are"
        )
    if head[4:8] == b"ftyp" and _TILED.search(head):
        raise NoVideoError(
            "cannot open the source: a HEIC or AVIF picture made of tiles, as telephones write, is "
            "not read here: JPEG and PNG are"
        )
    return next((name for pattern, name in _STILLS if pattern.match(head)), None)
