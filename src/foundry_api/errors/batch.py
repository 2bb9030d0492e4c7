"""A batch over files cannot go on."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError
from foundry_api.errors.request import InvalidRequest

__all__ = [
    "BatchCancelled",
    "BatchChanged",
    "BatchError",
    "BatchInUse",
    "BatchInputInvalid",
    "BatchStorageFailed",
]


class BatchError(FoundryError):
    """A batch cannot begin or go on. What was answered before is kept."""


class BatchInputInvalid(BatchError, InvalidRequest):
    """The input cannot be read, has bad lines, or is one of the files that are to be written.

    Attributes:
        problems: What is wrong with which line, the first ones.
    """

    problems: tuple[str, ...] = ()

    def with_problems(self, problems: tuple[str, ...]) -> BatchInputInvalid:
        """This error, with what is wrong with which line."""
        self.problems = problems
        return self


class BatchChanged(BatchError):
    """The input, or how it is asked, is not what the journal was begun with."""

    default_hint = "Give it as it was, another output, or --restart to forget what was answered."


class BatchInUse(BatchError):
    """Another process works on the same batch."""

    default_hint = "Wait for it, or share the work: give all of them --shared."


class BatchStorageFailed(BatchError):
    """The journal or the output cannot be written or read."""

    default_hint = "Free some space or mend the directory, then run the same command: it goes on."


class BatchCancelled(BatchError):
    """The batch was cancelled with `batch cancel`."""

    default_hint = "What is answered is kept."
