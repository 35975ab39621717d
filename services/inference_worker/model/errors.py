"""Errors of the worker beyond the shared tree."""

from sightline.errors import FailedPreconditionError, InternalError, UnavailableError

__all__ = ["DeviceFailedError", "ModelError", "NotFiniteError"]


class DeviceFailedError(UnavailableError):
    """The device computes nothing any more; only a new process helps."""


class NotFiniteError(InternalError):
    """The model gave scores that are no numbers."""


_LONGEST = 600  # libraries quote what they do not understand, however long it is


class ModelError(FailedPreconditionError):
    """A model folder that is missing, corrupt, or of a family this worker does not run. Its message
    is one line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…")
