"""Names of the reasons why answers end, as logs and metrics write them."""

from sightline.v1 import gateway_pb2

_NAMES = {
    gateway_pb2.FINISH_REASON_STOP: "stop",
    gateway_pb2.FINISH_REASON_LENGTH: "length",
    gateway_pb2.FINISH_REASON_CANCELLED: "cancelled",
}


def finish_name(reason: gateway_pb2.FinishReason) -> str:
    """ "stop", "length", "cancelled", or "error" for any other."""
    return _NAMES.get(reason, "error")
