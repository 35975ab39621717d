"""Errors of the worker beyond the shared tree."""

from sightline.errors import FailedPreconditionError, UnavailableError

__all__ = ["DeviceFailedError", "ModelError"]


class DeviceFailedError(UnavailableError):
    """The device computes nothing any more; only a new process helps."""


class ModelError(FailedPreconditionError):
    """A model folder that is missing, corrupt, or of a family this worker does not run."""
