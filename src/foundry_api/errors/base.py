"""The base of every error, and what all of them tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

__all__ = ["FoundryError"]


@dataclass(init=False, repr=False, eq=False)
class FoundryError(Exception):
    """The base of every error this package raises.

    Attributes:
        message: What happened, in one sentence without a full stop.
        hint: What the caller can do next.
        model: The model the call was for, if any.
        service: The base URL of the service, if one was involved.
        status: The HTTP status of the answer, if there was one.
        attempts: HTTP requests made for the call before this error was final; 0 if none was sent.
        earlier: What ended the attempts before the one that this error ended, oldest first.
        partial: The text of the answer that had come before.
        type: The name of the error's class.
        retryable: Whether another attempt of the same call may succeed.
    """

    # As fields of a dataclass they are what JSON has of an error that is part of a result.
    message: str
    hint: str
    model: str | None
    service: str | None
    status: int | None
    attempts: int
    partial: str
    earlier: tuple[FoundryError, ...]
    type: str

    default_hint: ClassVar[str] = ""
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
        attempts: int = 0,
        partial: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.model = model
        self.service = service
        self.status = status
        self.attempts = attempts
        self.earlier = ()
        self.partial = partial
        self.type = self.__class__.__name__

    def __post_init__(self) -> None:
        """Complete an error that msgspec made of its members, without `__init__`.

        Without arguments an exception ends the process when it is printed.
        """
        super().__init__(self.message)

    @property
    def causes(self) -> tuple[FoundryError, ...]:
        """What ended each attempt, oldest first; the last one is this error."""
        return (*self.earlier, self)

    def located(
        self,
        *,
        model: str | None = None,
        service: str | None = None,
        attempts: int | None = None,
    ) -> Self:
        """Fill in what the raiser could not know; what it did know stays."""
        self.model = self.model or model
        self.service = self.service or service
        self.attempts = self.attempts if attempts is None else attempts
        return self

    def __str__(self) -> str:
        where = ", ".join(self._where())
        told = f"{self.message} ({where})." if where else f"{self.message}."
        return f"{told} {self.hint}" if self.hint else told

    def _where(self) -> list[str]:
        parts: list[str] = []
        if self.model and self.model not in self.message:
            parts.append(f"model {self.model}")
        if self.service and self.service not in self.message:
            parts.append(f"service {self.service}")
        if self.status and f"HTTP {self.status}" not in self.message:
            parts.append(f"HTTP {self.status}")
        if self.attempts > 1:
            parts.append(f"after {self.attempts} attempts")
        return parts
