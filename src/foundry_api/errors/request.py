"""What the caller asks for cannot be done as it was asked."""

from __future__ import annotations

from foundry_api.errors.base import FoundryError

__all__ = [
    "ContextOverflow",
    "GrammarError",
    "InvalidRequest",
    "ResponseNotFound",
    "UnsupportedFeature",
    "UnsupportedParameter",
]


class InvalidRequest(FoundryError, ValueError):
    """The request is the caller's mistake: sending it again changes nothing.

    Attributes:
        field: The name of the argument at fault, if it is known.
    """

    default_hint = "Correct the argument and call again."

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, model=model, service=service, status=status)
        self.field = field


class UnsupportedParameter(InvalidRequest):
    """This generation of the service refuses the parameter."""

    default_hint = "Leave the parameter out."


class ContextOverflow(InvalidRequest):
    """Prompt plus max_tokens is larger than the model's context.

    Attributes:
        prompt_tokens: Tokens of the prompt, if the service counted them.
        max_tokens: Output tokens that the caller asked for; None if it named no bound.
        context_length: Tokens the model can hold, prompt and answer together.
    """

    default_hint = "Shorten the prompt, ask for fewer max_tokens, or use a model with more context."

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        max_tokens: int | None = None,
        context_length: int | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, field="max_tokens", model=model, service=service, status=status)
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length

    def blame_prompt(self) -> None:
        """Say that the prompt is too long, for a caller who named no bound of the answer.

        The service counts its own default of 2048 output tokens, and names it in its message.
        """
        self.field, self.max_tokens = "prompt", None
        self.hint = "Shorten the prompt, or use a model with more context."
        if self.prompt_tokens is not None and self.context_length is not None:
            self.message = (
                f"the prompt has {self.prompt_tokens} tokens, which leaves no room for an answer "
                f"in the model's context of {self.context_length}"
            )

    @property
    def room(self) -> int | None:
        """Tokens that an answer could have; None where there is no room, or nobody counted."""
        if self.context_length is None or self.prompt_tokens is None:
            return None
        left = self.context_length - self.prompt_tokens
        return left if left > 0 else None


class GrammarError(InvalidRequest):
    """The schema or grammar of the request does not compile."""

    default_hint = "Correct the schema or grammar; the message names the place."


class ResponseNotFound(InvalidRequest, LookupError):
    """The service keeps no such response.

    It was not stored, or deleted, or newer ones pushed it out: a service keeps 20, in memory
    (foundry-local-service.md, 1D).
    """

    default_hint = "Store it with store=True; to go on without it, send the whole conversation."


class UnsupportedFeature(FoundryError):
    """This generation of the service cannot do what was asked; nothing was sent."""

    default_hint = "Use a newer Foundry Local, or the embedded engine: service='embedded'."
