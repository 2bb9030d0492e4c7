"""Why an answer cannot be taken, in words for a model and for a person."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(ValueError):
    """An answer does not pass. What leaves the package is `StructuredOutputError`.

    Args:
        errors: What is wrong with it, a sentence each; a path such as `$.age` says where.

    Attributes:
        errors: As above.
    """

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors
