"""One exception tree, shared by the services that raise and the SDK that raises again.

Every class carries its gRPC status, so the same table maps an error to the wire and back.
"""

import grpc

__all__ = [
    "AlreadyExistsError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "SightlineError",
    "UnauthenticatedError",
    "UnavailableError",
    "error_from_status",
]


class SightlineError(Exception):
    """Base of every error Sightline raises on purpose. The message is meant for the caller.

    `reason` says why in a word that programs compare (see `sightline.Reason`); without one it is
    the name of the code. `retry_after_s`: when another try makes sense; None where nobody knows.
    """

    code = grpc.StatusCode.UNKNOWN

    def __init__(
        self, message: str = "", *, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = str(reason) or self.code.name
        self.retry_after_s = retry_after_s


class InvalidArgumentError(SightlineError):
    """The request is malformed or absurd."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(SightlineError):
    """No such session, conversation or voice."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(SightlineError):
    """The name or key is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(SightlineError):
    """A message out of order, or a state that does not allow it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(SightlineError):
    """No room: KV memory, sessions, or a bounded queue."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(SightlineError):
    """A peer is away or draining. Safe to retry."""

    code = grpc.StatusCode.UNAVAILABLE


class UnauthenticatedError(SightlineError):
    """A wrong or missing key."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(SightlineError):
    """A right key without this right."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExceededError(SightlineError):
    """The call took longer than its deadline."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class InternalError(SightlineError):
    """A defect of ours. Details are in the service's log."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[grpc.StatusCode, type[SightlineError]] = {
    error.code: error
    for error in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        ResourceExhaustedError,
        UnavailableError,
        UnauthenticatedError,
        PermissionDeniedError,
        DeadlineExceededError,
        InternalError,
    )
}


def error_from_status(
    code: grpc.StatusCode,
    message: str | None,
    *,
    reason: str = "",
    retry_after_s: float | None = None,
) -> SightlineError:
    """The exception a status stands for; an unlisted status gives a plain SightlineError."""
    kind = _BY_CODE.get(code, SightlineError)
    words = message or code.name.lower().replace("_", " ")
    return kind(words, reason=reason or code.name, retry_after_s=retry_after_s)
