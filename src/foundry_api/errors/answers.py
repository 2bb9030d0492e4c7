"""The answer came, and is not what it has to be."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError

__all__ = ["StructuredOutputError"]


class StructuredOutputError(FoundryError):
    """The answer did not pass, however often the model was asked again; its text is in `partial`.

    Where the caller's own parser or validator failed, its exception is the `__cause__`.

    Attributes:
        errors: What is wrong with it, a sentence each; a path such as `$.age` says where.
        repairs: How often the model was asked again.
        finish_reason: How the last answer ended, such as `length` for one that was cut.
    """

    default_hint = (
        "Its text is in .partial; say in the prompt what is wanted, or use a larger model."
    )
    cut_hint = (
        "Its text is in .partial; allow more max_tokens, or bound the texts and lists of a schema."
    )

    def __init__(
        self,
        message: str,
        *,
        errors: tuple[str, ...] = (),
        repairs: int = 0,
        finish_reason: str | None = None,
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        attempts: int = 0,
        partial: str = "",
    ) -> None:
        if hint is None and finish_reason == "length":
            hint = self.cut_hint
        super().__init__(
            message, hint=hint, model=model, service=service, attempts=attempts, partial=partial
        )
        self.errors = errors
        self.repairs = repairs
        self.finish_reason = finish_reason
