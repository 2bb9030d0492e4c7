"""Exceptions of validation. None of them leaves the package; callers get StructuredOutputError."""

from __future__ import annotations

from foundry_api.types.errors import StructuredOutputError
from foundry_api.types.user_code import describe

__all__ = [
    "TRUNCATED",
    "IncompleteOutput",
    "UserCodeFailed",
    "ValidationFailed",
    "ValidationTimeout",
]

TRUNCATED = "the answer was cut before its end"


class ValidationFailed(ValueError):
    """An answer is invalid.

    `errors` has one sentence per problem, written for the model as well as for people; a path such
    as `$.age` names the place. The caller's exception has the `message`, `hint` and `cause`.
    """

    hint = StructuredOutputError.default_hint

    def __init__(self, *errors: str) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors
        self.message = f"the answer is invalid: {'; '.join(errors)}"

    @property
    def cause(self) -> BaseException:
        return self


class ValidationTimeout(ValidationFailed):
    """An answer could not be validated in time."""


class IncompleteOutput(ValidationFailed):
    """An answer was cut or withheld, so that another request would not help."""

    def __init__(self, reason: str, *errors: str) -> None:
        super().__init__(*(errors or (reason,)))
        self.message = reason
        if reason == TRUNCATED:  # more tokens do not help against a content filter
            self.hint = StructuredOutputError.cut_hint


class UserCodeFailed(ValidationFailed):
    """The caller's parser or validator raised an exception that does not reject the answer."""

    hint = (
        "The answer is in .partial. See the exception that this was raised from, and correct the "
        "code; to reject an answer, raise ValueError."
    )

    def __init__(self, code_name: str, failure: BaseException) -> None:
        super().__init__(f"{code_name} failed: {describe(failure)}")
        self.message = str(self)
        self.failure = failure

    @property
    def cause(self) -> BaseException:
        return self.failure
