"""AMF0: what publishers send, and what nobody should get through."""

import struct

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.gateway.sources.rtmp import RtmpError, amf0

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=4))
def test_what_is_encoded_is_decoded_again(values: list[object]) -> None:
    assume(_depth(values) <= amf0.MAX_DEPTH)
    assert amf0.decode(amf0.encode(*values)) == values


def _depth(value: object) -> int:
    """Levels below the outermost list."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return max((1 + _depth(inner) for inner in value), default=0)
    return 0


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        values = amf0.decode(data)
    except RtmpError:
        return
    assert len(values) <= len(data)


def test_the_connect_command_of_a_real_publisher() -> None:
    """As OBS writes it: command name, transaction, object with an ECMA array nowhere."""
    data = (
        b"\x02\x00\x07connect\x00" + struct.pack(">d", 1) + b"\x03\x00\x03app\x02\x00\x04live"
        b"\x00\x08flashVer\x02\x00\x1fFMLE/3.0 (compatible; FMSc/1.0)\x00\x00\x09"
    )
    assert amf0.decode(data) == [
        "connect",
        1.0,
        {"app": "live", "flashVer": "FMLE/3.0 (compatible; FMSc/1.0)"},
    ]


def test_ecma_arrays_dates_and_long_strings() -> None:
    ecma = b"\x08\x00\x00\x00\x63\x00\x05width\x00" + struct.pack(">d", 640) + b"\x00\x00\x09"
    date = b"\x0b" + struct.pack(">d", 1234.0) + b"\x00\x00"
    long_string = b"\x0c\x00\x00\x00\x02hi"
    undefined = b"\x06"
    assert amf0.decode(ecma + date + long_string + undefined) == [
        {"width": 640.0},
        1234.0,
        "hi",
        None,
    ]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x03\x00\x01a" * 40, "nested too deep"),
        (b"\x0a\x7f\xff\xff\xff", "too long"),
        (b"\x0c\x7f\xff\xff\xff", "too long"),
        (b"\x05" * (amf0.MAX_VALUES + 1), "too long"),
        (b"\x02\x00\x10short", "ends too early"),
        (b"\x11", "not known"),
    ],
)
def test_limits(data: bytes, complaint: str) -> None:
    with pytest.raises(RtmpError, match=complaint):
        amf0.decode(data)


def test_numbers_that_are_none_become_zero() -> None:
    assert amf0.decode(b"\x00" + struct.pack(">d", float("nan"))) == [0.0]
