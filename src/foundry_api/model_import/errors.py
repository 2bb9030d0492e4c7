"""The errors of an import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, Unpack

from foundry_api.types.errors import ErrorDetails, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ModelBuilderMissing", "ModelImportFailed", "ModelSourceUnsupported"]


class ModelImportFailed(ModelError):
    """A Hugging Face or GGUF model could not be converted into one for the engine.

    Attributes:
        step: The step that failed, such as `graph`; None if the import did not start.
        log_path: The log of the converter; None if it did not run.
    """

    default_hint = "Import it again: finished steps are kept."

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        log_path: str | None = None,
        **details: Unpack[ErrorDetails],
    ) -> None:
        if details.get("hint") is None and log_path:
            details["hint"] = f"The converter's log is {log_path}."
        super().__init__(message, **details)
        self.step = step
        self.log_path = log_path


class ModelSourceUnsupported(ModelImportFailed):
    """The builder cannot convert this model; nothing was made.

    Attributes:
        problems: What is not supported, one sentence each, with the file and the field.
    """

    default_hint = "docs/import-models.md lists the models that can be imported."
    problems: tuple[str, ...] = ()

    def with_problems(self, problems: Iterable[str]) -> Self:
        """Set `problems`, and return this error."""
        self.problems = tuple(problems)
        return self


class ModelBuilderMissing(ModelImportFailed):
    """The packages that convert models are not installed."""

    default_hint = "Run `foundry-api models import --setup`, or pass setup=True."
