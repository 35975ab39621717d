"""What FLV payloads say, old and Enhanced RTMP, and messages around them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.sources.rtmp import RtmpError, amf0, messages
from services.gateway.sources.rtmp.chunks import Message
from services.gateway.sources.rtmp.flv import AudioTag, VideoTag, parse_audio, parse_video


@pytest.mark.parametrize(
    ("payload", "tag"),
    [
        (b"\x17\x00\x00\x00\x00avcC", VideoTag("header", "h264", data=b"avcC")),
        (b"\x17\x01\x00\x00\x42unit", VideoTag("frame", "h264", True, 66, b"unit")),
        (b"\x27\x01\xff\xff\xdfunit", VideoTag("frame", "h264", False, -33, b"unit")),
        (b"\x27\x02\x00\x00\x00", VideoTag("none", "h264")),
        (b"\x57\x00", VideoTag("none")),
        (b"", VideoTag("none")),
        # Enhanced RTMP: 0x80, frame type, packet type, FourCC
        (b"\x90hvc1hvcC", VideoTag("header", "hevc", data=b"hvcC")),
        (b"\x91hvc1\x00\x00\x21unit", VideoTag("frame", "hevc", True, 33, b"unit")),
        (b"\xa3hvc1unit", VideoTag("frame", "hevc", False, 0, b"unit")),
        (b"\x90av01av1C", VideoTag("header", "av1", data=b"av1C")),
        (b"\x91av01unit", VideoTag("frame", "av1", True, 0, b"unit")),
        (b"\xa1vp09unit", VideoTag("frame", "vp9", False, 0, b"unit")),
        (b"\x91avc1\x00\x00\x00unit", VideoTag("frame", "h264", True, 0, b"unit")),
        (b"\x92hvc1", VideoTag("none", "hevc")),
        (b"\x94hvc1colour", VideoTag("none", "hevc")),
        # A modifier of three bytes (a nanosecond offset) before the real packet type 1
        (b"\x97\x02abc\x01hvc1\x00\x00\x00unit", VideoTag("frame", "hevc", True, 0, b"unit")),
    ],
)
def test_video_tags(payload: bytes, tag: VideoTag) -> None:
    assert parse_video(payload) == tag


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"\x12\x00\x00\x00\x00", "video codec 2 is not supported"),
        (b"\x90xyz1data", "'xyz1' is not supported"),
        (b"\x17\x01\x00", "too short"),
        (b"\x91hvc1\x00", "too short"),
        (b"\x97\xff", "too short"),
        (b"\x96\x00", "several video tracks"),
    ],
)
def test_video_tags_that_are_refused(payload: bytes, complaint: str) -> None:
    with pytest.raises(RtmpError, match=complaint):
        parse_video(payload)


@settings(deadline=None)
@given(st.binary(max_size=32))
def test_any_payload_parses_or_is_refused(payload: bytes) -> None:
    parse_audio(payload)
    try:
        tag = parse_video(payload)
    except RtmpError:
        return
    assert payload.endswith(tag.data)


def test_audio_tags() -> None:
    assert parse_audio(b"\xaf\x00\x12\x10") == AudioTag("header", "aac", b"\x12\x10")
    assert parse_audio(b"\xaf\x01frame") == AudioTag("frame", "aac", b"frame")
    assert parse_audio(b"\x2fmp3") == AudioTag("frame", "mp3", b"mp3")


def test_an_aggregate_message_holds_tags_at_their_own_times() -> None:
    def tag(kind: int, timestamp: int, body: bytes) -> bytes:
        head = bytes([kind]) + len(body).to_bytes(3) + (timestamp & 0xFFFFFF).to_bytes(3)
        return head + bytes([timestamp >> 24, 0, 0, 0]) + body + (len(body) + 11).to_bytes(4)

    payload = tag(9, 0x01000000, b"video") + tag(8, 0x01000017, b"audio")
    assert messages.parse_aggregate(Message(22, 1, 5000, payload)) == [
        Message(9, 1, 5000, b"video"),
        Message(8, 1, 5023, b"audio"),
    ]
    for end in (5, 13, 30):
        with pytest.raises(RtmpError, match="ends too early"):
            messages.parse_aggregate(Message(22, 1, 0, payload[:end]))


def test_metadata_with_and_without_set_data_frame() -> None:
    values = {"width": 640.0}
    plain = amf0.encode("onMetaData", values)
    wrapped = amf0.encode("@setDataFrame", "onMetaData", values)
    for kind, payload in ((18, plain), (18, wrapped), (15, b"\x00" + wrapped)):
        assert messages.parse_metadata(Message(kind, 1, 0, payload)) == values
    assert messages.parse_metadata(Message(18, 1, 0, amf0.encode("onTextData", values))) is None


@pytest.mark.parametrize("payload", [b"", amf0.encode("publish"), amf0.encode(1, 2)])
def test_malformed_commands(payload: bytes) -> None:
    with pytest.raises(RtmpError, match="malformed"):
        messages.parse_command(Message(20, 0, 0, payload))
