"""Why an answer cannot be taken, in words for a model and for a person."""

from __future__ import annotations

from foundry_api.types.user_code import describe

__all__ = ["IncompleteOutput", "UserCodeFailed", "ValidationFailed", "ValidationTimeout"]


class ValidationFailed(ValueError):
    """An answer does not pass. What leaves the package is `StructuredOutputError`.

    Args:
        errors: What is wrong with it, a sentence each; a path such as `$.age` says where.

    Attributes:
        errors: As above.
    """

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


class ValidationTimeout(ValidationFailed):
    """An answer could not be validated in the time for that."""


class IncompleteOutput(ValidationFailed):
    """Only a part of an answer came, so that asking again would not help.

    Args:
        reason: Why there is no more of it.
        errors: What is wrong with that part, if it was checked.
    """

    def __init__(self, reason: str, *errors: str) -> None:
        super().__init__(*(errors or (reason,)))
        self.reason = reason


class UserCodeFailed(ValidationFailed):
    """The caller's own code failed on an answer, which says nothing of the answer.

    Args:
        what: Which code, such as `the parser`.
        failure: What it raised.

    Attributes:
        failure: As above.
    """

    def __init__(self, code_name: str, failure: BaseException) -> None:
        super().__init__(f"{code_name} failed: {describe(failure)}")
        self.failure = failure
