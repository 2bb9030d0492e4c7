"""A model is not in the state that a call needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from foundry_api.errors.base import FoundryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.messages import ModelUser

__all__ = [
    "CatalogUnavailable",
    "DownloadFailed",
    "MemoryBudgetExceeded",
    "ModelError",
    "ModelInUse",
    "ModelLoadFailed",
    "ModelNotCached",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelRegistrationFailed",
    "ModelTaskMismatch",
]


class ModelError(FoundryError):
    """A model is not in the state that the call needs.

    Attributes:
        users: Who uses the models in the way, where that is why.
    """

    users: tuple[ModelUser, ...] = ()

    def used_by(self, users: Iterable[ModelUser]) -> Self:
        """Fill in who uses the models in the way."""
        self.users = tuple(users)
        return self


class ModelNotFound(ModelError, LookupError):
    """No model of that name is known to the service.

    Attributes:
        nearest: Known names that look like the one asked for, best first.
    """

    default_hint = "List the models with `foundry-api models list`; `demo` always works."

    def __init__(
        self,
        message: str,
        *,
        nearest: Sequence[str] = (),
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
    ) -> None:
        if hint is None and nearest:
            hint = f"Did you mean {' or '.join(nearest)}? {self.default_hint}"
        super().__init__(message, hint=hint, model=model, service=service, status=status)
        self.nearest = tuple(nearest)


class ModelNotCached(ModelError):
    """The model is known, but its files are not on this machine."""

    default_hint = (
        "Download it with `foundry-api models pull NAME` or download=True; `demo` works now."
    )


class ModelNotLoaded(ModelError):
    """The model's files are here, but it is not in memory."""

    default_hint = "Load it with client.models.load(NAME) or `foundry-api models load NAME`."
    retryable = True


class ModelInUse(ModelError):
    """The model cannot be unloaded while somebody still uses it; `users` tells who, if known."""

    default_hint = "Wait for the running calls to end, then unload again."


class MemoryBudgetExceeded(ModelError):
    """The model does not fit into memory beside those that have to stay, for their `users`."""

    default_hint = "Unload a model, or raise FOUNDRY_MEMORY_BUDGET or residency=."


class ModelTaskMismatch(ModelError):
    """The model is made for something else: a chat model cannot embed or transcribe."""

    default_hint = "See what each model is for with `foundry-api models list`, and name another."


class ModelLoadFailed(ModelError):
    """The engine could not load the model's files."""

    default_hint = (
        "The engine's log tells more; for a directory of yours, "
        "`foundry-api models add DIRECTORY --check` tries it."
    )


class ModelRegistrationFailed(ModelError):
    """The directory is not a model that the engine can serve."""

    default_hint = (
        "It must hold genai_config.json, an ONNX graph, tokenizer.json and tokenizer_config.json."
    )


class DownloadFailed(ModelError):
    """The download of a model broke off."""

    default_hint = "Check the network and the disk, then pull again; it goes on where it stopped."


class CatalogUnavailable(ModelError):
    """The model catalog could not be reached, so only local models are known."""

    default_hint = "Check the network; cached models and `demo` work without it."
