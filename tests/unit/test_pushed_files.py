"""Files that are pushed packet by packet, or picture by picture: seen as they are to be shown."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from services.common.jpeg import decode_jpeg, encode_jpeg
from services.gateway.sources.decoder import BitstreamDecoder, FrameOutlet
from services.gateway.sources.source import EncodedPacket
from sightline.errors import InvalidArgumentError
from sightline.v1 import gateway_pb2 as pb
from sightline.video import VideoFile
from tests.sources import RecordingSink, encode_clip, picture_array, tone, write_clip
from tests.unit.test_display import CORNERS, as_stored, corners


def written(path: Path, codec: str, degrees: int = 0, *, flip: bool = False) -> Path:
    pixels = as_stored(degrees, flip)
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream.set_display_rotation(degrees, hflip=flip)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        for _ in range(6):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def received(file: VideoFile) -> list[av.VideoFrame]:
    """What a gateway makes of the messages."""
    sink = RecordingSink()
    frames: list[av.VideoFrame] = []
    sink.take = lambda picture: frames.append(picture.frame)  # type: ignore[method-assign]
    decoder = (
        BitstreamDecoder(FrameOutlet(sink), file.codec, file.extradata) if file.codec else None
    )
    for _, message in file.messages(0):
        if decoder is not None:
            packet = message.packet
            decoder.decode(EncodedPacket(packet.data, packet.capture_ns, packet.keyframe))
        else:
            frames.append(picture_of(message))
    if decoder is not None:
        decoder.flush()
    assert not sink.drops
    return frames


def picture_of(message: pb.PushFramesRequest) -> av.VideoFrame:
    sent: Any = message.frame.rgb
    pixels = np.frombuffer(sent.data, np.uint8).reshape(sent.height, sent.width, 3)
    return av.VideoFrame.from_ndarray(pixels, "rgb24")


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mjpeg"])
def test_a_telephones_video_is_seen_upright(
    tmp_path: Path, codec: str, degrees: int, flip: bool
) -> None:
    """Also by who gets its packets alone."""
    with VideoFile(written(tmp_path / "a.mp4", codec, degrees, flip=flip)) as file:
        assert bool(file.codec) == (codec != "mjpeg" or not (degrees or flip))
        frames = received(file)
    assert len(frames) == 6
    for frame in frames:
        assert np.abs(np.subtract(corners(frame), CORNERS)).max() < 40


def test_a_photograph_is_turned(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(np.rot90(as_stored(0, False)))
    jpeg = encode_jpeg(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuvj420p"))
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
    (tmp_path / "photo.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:])
    assert decode_jpeg(jpeg).width < decode_jpeg(jpeg).height
    with VideoFile(tmp_path / "photo.jpg") as file:
        (frame,) = received(file)
    assert np.abs(np.subtract(corners(frame), CORNERS)).max() < 40


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_bare_stream_has_no_times_and_is_sent(tmp_path: Path, codec: str, ending: str) -> None:
    clip = encode_clip(codec, num_pictures=20)
    path = tmp_path / f"bare.{ending}"
    path.write_bytes(b"".join(data for data, _, _ in clip.packets))
    with VideoFile(path) as file:
        times = [message.frame.capture_ns for _, message in file.messages(0)]
        again = [message.frame.capture_ns for _, message in file.messages(0)]
    assert len(times) == 20
    assert min(np.diff(times)) > 0
    assert again == times


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_times_that_leap_are_not_waited_for(tmp_path: Path, codec: str) -> None:
    """By ten hours, in the middle."""
    with av.open(str(tmp_path / "leap.mkv"), "w") as file:
        stream = file.add_stream(codec, rate=15)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(picture_array(number, 160, 120), "rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number + (540_000 if number >= 20 else 0), Fraction(1, 15)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with VideoFile(tmp_path / "leap.mkv") as video:
        due = [due_s for due_s, _ in video.messages(0)]
    assert len(due) == 30
    assert due == sorted(due)
    assert max(np.diff(due)) < 1


def test_pixels_that_are_oblong_are_squared(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "tape.mpg"), "w") as output:
        stream = output.add_stream("mpeg2video", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture_array(number, 720, 576), "rgb24")
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    with VideoFile(tmp_path / "tape.mpg") as file:
        _, message = next(file.messages(0))
    assert (message.frame.rgb.width, message.frame.rgb.height) == (640, 360)


def test_av1_travels_as_it_is(tmp_path: Path) -> None:
    with VideoFile(write_clip(tmp_path / "a.mp4", "libsvtav1", seconds=1)) as file:
        assert file.codec == "av1"
        assert len(received(file)) == 15


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    jpeg = encode_jpeg(
        av.VideoFrame.from_ndarray(picture_array(1, 64, 64)).reformat(format="yuvj420p")
    )
    with av.open(str(tmp_path / "song.m4a"), "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=44_100)
        cover = output.add_stream("mjpeg", rate=1)
        assert isinstance(cover, av.VideoStream)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(sound.encode(tone(0, 44_100)))
        packet = av.Packet(jpeg)
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        output.mux(packet)
        output.mux(sound.encode(None))
    with pytest.raises(InvalidArgumentError, match="no video in it"):
        VideoFile(tmp_path / "song.m4a")
