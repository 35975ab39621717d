"""Details of errors: what other client libraries read in them, and what cannot be read."""

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2  # Google's own, as an oracle

from sightline.errors import NotFoundError, error_from_status
from sightline.reasons import Reason
from sightline.status import DETAILS, Details, details_bytes, details_of


def test_googles_classes_read_what_is_written() -> None:
    status = status_pb2.Status.FromString(details_bytes(8, "no room", "MODEL_FULL", 2.5))
    assert (status.code, status.message) == (8, "no room")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("MODEL_FULL", "sightline")
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500
    assert len(status_pb2.Status.FromString(details_bytes(5, "", "X")).details) == 1


def test_what_googles_classes_write_is_read() -> None:
    status = status_pb2.Status(code=14, message="away")
    status.details.add().Pack(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=3))
    )
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUOTA", domain="google.com"))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="DRAINING", domain="sightline"))
    status.details.add().Pack(error_details_pb2.BadRequest())
    metadata = (("other", "x"), (DETAILS, status.SerializeToString()))
    assert details_of(metadata) == Details("DRAINING", 3.0)


@pytest.mark.parametrize("metadata", [None, (), ((DETAILS, b"\xff\xff"),), ((DETAILS, "text"),)])
def test_what_is_no_detail_says_nothing(metadata) -> None:
    assert details_of(metadata) == Details()


def test_an_error_without_a_reason_has_its_codes() -> None:
    assert NotFoundError("gone").reason == "NOT_FOUND"
    assert error_from_status(grpc.StatusCode.ABORTED, "x").reason == "ABORTED"
    assert str(NotFoundError("gone", reason=Reason.SESSION_NOT_FOUND).reason) == "SESSION_NOT_FOUND"


def test_reasons_are_spelt_as_google_wants_them() -> None:
    assert all(
        each.isupper() and each.replace("_", "").isalnum() and len(each) <= 63 for each in Reason
    )
    assert all(each.name == each.value for each in Reason)
