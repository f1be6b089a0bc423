"""What can go wrong while a run is under way.

Values that are out of range raise `ValueError`, wrong types `TypeError`, missing files
`FileNotFoundError`, all at construction. The tree below is for what only shows later:

RaysbError
 |- DataError            rows that cannot be used (missing column, undecodable image, mixed shapes)
 |- ResourceError        more CPUs or GPUs asked for than there are
 |- RunDirectoryError    a run directory that is taken, unwritable or not a run
 |- ModelError           a model or loss that does not fit the batch
 |- NonFiniteError       too many losses are NaN or infinite
 '- StreamOrderError     `reduce` and `step` called out of order

Every class takes one message, so each survives pickling from a worker to the driver.
"""

__all__ = [
    "DataError",
    "ModelError",
    "NonFiniteError",
    "RaysbError",
    "ResourceError",
    "RunDirectoryError",
    "StreamOrderError",
]


class RaysbError(Exception):
    """Base of all errors that raysb raises on its own account."""


class DataError(RaysbError, ValueError):
    """Rows that cannot be used; the message names the file and the row."""


class ResourceError(RaysbError):
    """More resources asked for than the cluster has; the message names the flag to change."""


class RunDirectoryError(RaysbError):
    """The run directory is taken, cannot be written, or holds no run."""


class ModelError(RaysbError):
    """The model or its loss does not fit the batch; shows columns, shapes and the call."""


class NonFiniteError(RaysbError):
    """More losses than `scoring.max_nonfinite_fraction` are NaN or infinite."""


class StreamOrderError(RaysbError):
    """`stream.reduce` and `stream.step` not called in turn, which would hang the other ranks."""
