"""Another window for a session, while it runs."""

import grpc

from services.common.errors import error_of_peer, restarting
from services.gateway.workers.worker import Worker
from services.gateway.workers.workers import MODEL
from sightline.errors import FailedPreconditionError, SightlineError
from sightline.reasons import Reason
from sightline.v1 import inference_pb2

RESIZE_TIMEOUT_S = 10.0


async def resize(worker: Worker, session_id: str, window: int) -> int:
    """Let a worker give a session another window, of so many segments; 0: the model's default.
    The segments that it has now. Raises what the worker answers, FailedPreconditionError for one
    that cannot."""
    request = inference_pb2.ResizeSessionRequest(session_id=session_id, window_segments=window)
    try:
        reply = await worker.stub.ResizeSession(request, timeout=RESIZE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise _not_resized(error) from None
    return int(reply.window_segments)


def _not_resized(error: grpc.aio.AioRpcError) -> SightlineError:
    """Error for a window that did not change."""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return FailedPreconditionError(
            "this session's worker is of an earlier version, which changes no window while a "
            "session runs: open another session",
            reason=Reason.NOT_CHANGEABLE,
        )
    refusal = error_of_peer(error, MODEL)
    if error.code() is grpc.StatusCode.NOT_FOUND:  # it was started again, and hears of it soon
        return restarting(MODEL, Reason.MODEL_AWAY)
    return refusal
