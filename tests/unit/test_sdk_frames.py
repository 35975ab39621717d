"""What may be pushed, and how video files are read."""

import builtins
import importlib
import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from services.gateway.sources.bitstream import jpeg_size
from sightline import InvalidArgumentError, Packet, UnavailableError
from sightline.camera import Camera
from sightline.frames import frame_message, split_frames
from sightline.v1 import gateway_pb2
from sightline.video import LARGEST_SIDE, VideoFile, load_av
from sightline.wire import error_of

START_NS = 1_000_000_000_000


def test_arrays_become_raw_pictures() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    message = frame_message(pixels, 7)
    assert (message.frame.rgb.height, message.frame.rgb.width) == (2, 3)
    assert message.frame.rgb.data == pixels.tobytes()
    assert message.frame.capture_ns == 7


def test_views_that_are_not_contiguous_are_read_in_order() -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    view = pixels[::2, ::-1]
    assert frame_message(view, 1).frame.rgb.data == np.ascontiguousarray(view).tobytes()


def test_objects_that_offer_an_array_serve_too() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    picture = SimpleNamespace()
    picture_type = type("Picture", (), {"__array__": lambda self: pixels})
    assert frame_message(picture_type(), 1).frame.rgb.width == 2
    with pytest.raises(InvalidArgumentError, match="SimpleNamespace"):
        frame_message(picture, 1)


def test_a_time_of_its_own_wins() -> None:
    assert frame_message((b"\xff\xd8", 5), 9).frame.capture_ns == 5


@pytest.mark.parametrize(
    "frame",
    [
        b"GIF89a",
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2, 3), np.float32),
        np.zeros((2, 2, 3), np.int8),
        "picture.jpg",
        None,
    ],
    ids=["gif", "grey", "rgba", "float", "signed", "text", "none"],
)
def test_what_is_no_frame_is_refused(frame: object) -> None:
    with pytest.raises(InvalidArgumentError):
        frame_message(frame, 1)


def test_a_single_frame_is_a_list_of_one() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    for single in (b"\xff\xd8", Packet(b"x", 1), (picture, 3), picture):
        assert len(split_frames(single)) == 1
    clip = np.zeros((5, 2, 2, 3), np.uint8)
    assert len(split_frames(clip)) == 5


def write_video(
    path: Path, *, b_frames: int, codec: str = "libx264", side: int = 64, rate: int = 10
) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"bf": str(b_frames), "g": "30", "sc_threshold": "0"}
        for number in range(40):
            pixels = np.full((side, side, 3), number * 6, np.uint8)
            pixels[number : number + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_h264_travels_as_packets(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", b_frames=2)
    with VideoFile(tmp_path / "a.mp4") as file:
        assert file.codec == "h264"
        assert file.extradata
        assert file.end_s == pytest.approx(4.0)
        messages = list(file.messages(START_NS))
        again = list(file.messages(START_NS))
    assert len(messages) == 40
    assert messages[0][1].packet.keyframe
    assert messages[0][1].packet.capture_ns == START_NS
    shown = sorted(message.packet.capture_ns for _, message in messages)
    assert np.allclose(np.diff(shown), 1e8, atol=2)
    due = [when for when, _ in messages]
    assert due == sorted(due)
    assert [m.packet.capture_ns for _, m in again] == [m.packet.capture_ns for _, m in messages]


def test_a_moment_between_reordered_frames_is_cut_exactly(tmp_path: Path) -> None:
    write_video(tmp_path / "b.mp4", b_frames=3)
    with VideoFile(tmp_path / "b.mp4", until_s=1.25) as file:
        assert file.codec == ""
        messages = list(file.messages(START_NS))
    assert len(messages) == 13  # 0.0 … 1.2 s
    assert messages[-1][1].frame.capture_ns == START_NS + 1_200_000_000
    assert file.last_s == pytest.approx(1.2)


def test_a_moment_without_reordering_needs_no_decoding(tmp_path: Path) -> None:
    write_video(tmp_path / "c.mp4", b_frames=0)
    with VideoFile(tmp_path / "c.mp4", until_s=1.0) as file:
        assert file.codec == "h264"
        assert len(list(file.messages(START_NS))) == 11


def test_other_codecs_travel_as_pictures_that_fit(tmp_path: Path) -> None:
    write_video(tmp_path / "d.mkv", b_frames=0, codec="ffv1", side=1024)
    with VideoFile(tmp_path / "d.mkv") as file:
        assert file.codec == ""
        _, message = next(file.messages(START_NS))
    picture = message.frame.rgb
    assert (picture.width, picture.height) == (LARGEST_SIDE, LARGEST_SIDE)
    assert len(picture.data) == LARGEST_SIDE**2 * 3
    assert picture.data[-3:] == picture.data[-6:-3]  # rows without padding


def test_files_that_are_no_video_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video\n" * 100)
    with pytest.raises(InvalidArgumentError, match=r"notes\.mp4 is not a video"):
        VideoFile(tmp_path / "notes.mp4")


def test_without_pyav_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise builtins.ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"pip install 'sightline-live\[media\]'"):
        load_av()


def test_what_a_transport_says_is_put_into_words() -> None:
    inner = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:29891: refused"
    told = error_of(gateway_pb2.ErrorEvent(code="UNAVAILABLE", message=inner))
    assert isinstance(told, UnavailableError)
    assert told.message == "the model is restarting, about 20 s: try again then"
    known = error_of(gateway_pb2.ErrorEvent(code="UNAVAILABLE", message="the gateway is draining"))
    assert known.message == "the gateway is draining"


@pytest.mark.parametrize(
    ("name", "platform", "driver", "place"),
    [
        ("0", "linux", "v4l2", "/dev/video0"),
        ("/dev/video2", "linux", "v4l2", "/dev/video2"),
        ("1", "darwin", "avfoundation", "1:none"),
        ("1", "win32", "dshow", "1"),
        ("screen", "linux", "x11grab", ":7"),
        ("screen", "darwin", "avfoundation", "Capture screen 0:none"),
        ("screen", "win32", "gdigrab", "desktop"),
    ],
)
def test_devices_have_the_names_that_people_give_them(
    name: str, platform: str, driver: str, place: str
) -> None:
    camera = Camera.named(name, platform, ":7")
    assert camera is not None
    assert (camera.driver, camera.place) == (driver, place)


def test_files_are_no_devices(tmp_path: Path) -> None:
    for name in ("clip.mp4", "./0", "video0", str(tmp_path), "", "a\0b"):
        assert Camera.named(name, "linux", ":7") is None


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        (Camera("v4l2", "/dev/video99"), "there is no such device"),
        (Camera("no-such-driver", "0"), "cannot read no-such-driver devices"),
    ],
)
def test_a_device_that_is_not_there_is_said_to_be(camera: Camera, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        VideoFile(camera)


def test_a_cameras_pictures_are_jpeg_of_now() -> None:
    """Of a device that paints its own."""
    before_ns = time.time_ns()
    with VideoFile(Camera("lavfi", "testsrc=size=1280x720:rate=30")) as camera:
        assert camera.live
        messages = [message for _, message in itertools.islice(camera.messages(0), 4)]
    times = [message.frame.capture_ns for message in messages]
    assert before_ns < times[0] <= time.time_ns()
    assert [round((later - times[0]) / 1e9, 2) for later in times] == [0, 0.03, 0.07, 0.1]
    assert jpeg_size(messages[0].frame.jpeg) == (640, 360)
    assert 1000 < len(messages[0].frame.jpeg) < 100_000
