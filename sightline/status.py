"""The details of a gRPC status: google.rpc.ErrorInfo and RetryInfo in trailing metadata.

These are Google's messages by their own names, so that every client library reads them. They are
described here rather than taken from googleapis-common-protos, which the client would have to
bring along for two of them, and in a pool of their own, where that package's are not met.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError

from sightline.reasons import DOMAIN

__all__ = ["DETAILS", "Details", "details_bytes", "details_of"]

DETAILS = "grpc-status-details-bin"
_STRING, _INT32, _MESSAGE = 9, 5, 11  # of descriptor.proto


class Details(NamedTuple):
    """Details of a status beside its code and words. `reason` is "" where it says none."""

    reason: str = ""
    retry_after_s: float | None = None


def details_bytes(
    code: int, message: str, reason: str, retry_after_s: float | None = None
) -> bytes:
    """A google.rpc.Status with these details, for the metadata `DETAILS`."""
    kinds = _messages()
    status = kinds["Status"](code=code, message=message)
    status.details.add().Pack(kinds["ErrorInfo"](reason=reason, domain=DOMAIN))
    if retry_after_s is not None:
        retry = kinds["RetryInfo"]()
        retry.retry_delay.FromMilliseconds(round(1000 * retry_after_s))
        status.details.add().Pack(retry)
    encoded: bytes = status.SerializeToString()
    return encoded


def details_of(metadata: Iterable[Any] | None) -> Details:
    """The details in a call's trailing metadata; none in what is not ours or cannot be read."""
    encoded = next((value for key, value in metadata or () if key == DETAILS), None)
    if not isinstance(encoded, bytes):
        return Details()
    kinds = _messages()
    reason, retry_after_s = "", None
    try:
        for detail in kinds["Status"].FromString(encoded).details:
            if detail.Is(kinds["ErrorInfo"].DESCRIPTOR):
                info = kinds["ErrorInfo"].FromString(detail.value)
                reason = info.reason if info.domain == DOMAIN else reason
            elif detail.Is(kinds["RetryInfo"].DESCRIPTOR):
                retry = kinds["RetryInfo"].FromString(detail.value)
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    except (DecodeError, ValueError):
        return Details()
    return Details(reason, retry_after_s)


@functools.cache
def _messages() -> dict[str, Any]:
    """Classes of google.rpc's messages by name, as status.proto and error_details.proto have
    them."""
    file = descriptor_pb2.FileDescriptorProto(
        name="sightline/google_rpc.proto", package="google.rpc", syntax="proto3"
    )
    file.dependency.extend(each.DESCRIPTOR.name for each in (any_pb2, duration_pb2))
    _describe(file, "Status", code=_INT32, message=_STRING, details=".google.protobuf.Any")
    _describe(file, "ErrorInfo", reason=_STRING, domain=_STRING)
    _describe(file, "RetryInfo", retry_delay=".google.protobuf.Duration")
    pool = descriptor_pool.DescriptorPool()
    for each in (any_pb2, duration_pb2):
        pool.AddSerializedFile(each.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    names = ("Status", "ErrorInfo", "RetryInfo")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
        for name in names
    }


def _describe(file: descriptor_pb2.FileDescriptorProto, name: str, **fields: int | str) -> None:
    """Add a message whose fields are numbered from 1 in this order; one type is a message's name,
    and `details` is repeated."""
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        described = message.field.add(
            name=field, number=number, label=3 if field == "details" else 1
        )
        described.type = kind if isinstance(kind, int) else _MESSAGE  # type: ignore[assignment]
        if isinstance(kind, str):
            described.type_name = kind
