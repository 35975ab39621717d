"""Errors of the worker beyond the shared tree."""

from sightline.errors import FailedPreconditionError

__all__ = ["ModelError"]


class ModelError(FailedPreconditionError):
    """A model folder that is missing, corrupt, or of a family this worker does not run."""
