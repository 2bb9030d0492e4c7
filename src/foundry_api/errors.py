"""Every failure this package raises, and how the service's words become one of them.

The tree::

    FoundryError
    ├── ConfigurationError              a setting or environment variable cannot be used
    ├── ClientClosed                    the client was closed before or during the call
    ├── InvalidRequest (ValueError)     the caller's mistake; sending it again changes nothing
    │   ├── UnsupportedParameter        this generation of the service refuses the parameter
    │   ├── ContextOverflow             prompt plus max_tokens is larger than the context
    │   └── GrammarError                the schema or grammar does not compile
    ├── UnsupportedFeature              this generation of the service cannot do it at all
    ├── ModelError
    │   ├── ModelNotFound (LookupError) no model of that name is known
    │   ├── ModelNotCached              known, but its files are not on this machine
    │   ├── ModelNotLoaded              its files are here, but it is not in memory
    │   ├── ModelInUse                  it cannot be unloaded while sessions use it
    │   ├── ModelLoadFailed             the engine could not load its files
    │   ├── ModelRegistrationFailed     the directory is not a model the engine can serve
    │   ├── DownloadFailed              the download broke off
    │   └── CatalogUnavailable          the catalog could not be reached, so names are unknown
    ├── CallTimeout (TimeoutError)      a time bound of the call fell
    │   └── SilenceTimeout              no token for `timeout` seconds
    └── ServiceError
        ├── ServiceNotRunning           nothing answers at the address
        ├── ServiceCrashed              the service went away during a call
        ├── ServiceStartFailed          the engine host could not be started
        ├── RouteMissing                the service has no such route: another generation?
        ├── ProtocolError               the service sent what its protocol does not allow
        ├── ServerError                 the service failed and says it is its own fault
        └── StreamInterrupted           a stream ended before its answer did

Every error tells what happened (`message`), what to do next (`hint`), and, where they are known,
the `model`, the `service`, the HTTP `status` and the number of `attempts`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CallTimeout",
    "CatalogUnavailable",
    "ClientClosed",
    "ConfigurationError",
    "ContextOverflow",
    "DownloadFailed",
    "FoundryError",
    "GrammarError",
    "InvalidRequest",
    "ModelError",
    "ModelInUse",
    "ModelLoadFailed",
    "ModelNotCached",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelRegistrationFailed",
    "ProtocolError",
    "RouteMissing",
    "ServerError",
    "ServiceCrashed",
    "ServiceError",
    "ServiceNotRunning",
    "ServiceStartFailed",
    "SilenceTimeout",
    "StreamInterrupted",
    "UnsupportedFeature",
    "UnsupportedParameter",
    "classify",
]


class FoundryError(Exception):
    """The base of every error this package raises.

    Attributes:
        message: What happened, in one sentence without a full stop.
        hint: What the caller can do next.
        model: The model the call was for, if any.
        service: The base URL of the service, if one was involved.
        status: The HTTP status of the answer, if there was one.
        attempts: HTTP requests made for the call before this error was final; 0 if none was sent.
        retryable: Whether another attempt of the same call may succeed.
    """

    default_hint: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.model = model
        self.service = service
        self.status = status
        self.attempts = attempts

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


class ConfigurationError(FoundryError):
    """A setting or an environment variable cannot be used."""


class ClientClosed(FoundryError):
    """The client was closed before or during the call."""

    default_hint = "Create a new FoundryAPIClient, or keep this one open until its calls are done."


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
        max_tokens: Output tokens asked for, or the service's default.
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


class GrammarError(InvalidRequest):
    """The schema or grammar of the request does not compile."""

    default_hint = "Correct the schema or grammar; the message names the place."


class UnsupportedFeature(FoundryError):
    """This generation of the service cannot do what was asked; nothing was sent."""

    default_hint = "Use a newer Foundry Local, or the embedded engine: service='embedded'."


class ModelError(FoundryError):
    """A model is not in the state that the call needs."""


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
    """The model cannot be unloaded while sessions still use it."""

    default_hint = "Wait for the running calls to end, then unload again."


class ModelLoadFailed(ModelError):
    """The engine could not load the model's files."""

    default_hint = "Check the model's files and free memory; the engine's log tells more."


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


class CallTimeout(FoundryError, TimeoutError):
    """A time bound of the call fell; the engine's work was stopped.

    Attributes:
        limit_s: The bound that fell, in seconds.
        partial: The text received before it fell.
    """

    default_hint = "Raise the bound, or ask for less: a shorter prompt, fewer max_tokens."

    def __init__(
        self,
        message: str,
        *,
        limit_s: float = 0.0,
        partial: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.limit_s = limit_s
        self.partial = partial


class SilenceTimeout(CallTimeout):
    """No token came for `timeout` seconds."""

    default_hint = "Raise timeout= or FOUNDRY_TIMEOUT, shorten the prompt, or use a smaller model."


class ServiceError(FoundryError):
    """The service, not the request, is at fault."""


class ServiceNotRunning(ServiceError):
    """Nothing answers at the service's address."""

    default_hint = (
        "Start one with `foundry-api up`, or see what is there with `foundry-api status`."
    )
    retryable = True


class ServiceCrashed(ServiceError):
    """The service went away during a call."""

    default_hint = "Call again: an embedded engine is restarted; a foreign one has to be started."
    retryable = True


class ServiceStartFailed(ServiceError):
    """The engine host could not be started.

    Attributes:
        log_path: The host's log file, if it got as far as opening one.
    """

    default_hint = "The log names the cause."

    def __init__(
        self, message: str, *, log_path: str | None = None, hint: str | None = None
    ) -> None:
        if hint is None and log_path:
            hint = f"The cause is in its log: {log_path}"
        super().__init__(message, hint=hint)
        self.log_path = log_path


class RouteMissing(ServiceError):
    """The service has no such route: it is another generation than was taken for granted."""

    default_hint = "Create a new client, so that the service's generation is detected again."


class ProtocolError(ServiceError):
    """The service sent bytes that its protocol does not allow, or more than the bounds allow."""

    default_hint = "Check that the address is a Foundry Local service: `foundry-api status`."


class ServerError(ServiceError):
    """The service failed and says that it is its own fault."""

    default_hint = "Call again; if it persists, the engine's log tells more."
    retryable = True


class StreamInterrupted(ServiceError):
    """A stream ended without finish reason or end mark: the answer is not whole.

    Attributes:
        partial: The text received before the stream broke off.
    """

    default_hint = "The text so far is in .partial; call again for a whole answer."
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        partial: str = "",
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, model=model, service=service)
        self.partial = partial


_SOURCE_PLACE = re.compile(r"(?<![\w./\\-])[\w./\\-]+\.(?:cc|cpp|h|hpp):\d+ ")

MAX_MESSAGE_CHARS = 2000
"""A longer one is no message; what lies behind is cut off before anything searches it."""


def clean(message: str) -> str:
    """The service's message without the engine's C++ file, line and signature.

    The 2.x engine writes `search_options.cc:108 int fl::Validate(const std::string&) request ...`;
    only what follows the signature is meant for people.
    """
    message = message[:MAX_MESSAGE_CHARS]
    while place := _SOURCE_PLACE.search(message):
        end = _signature_end(message, place.end())
        if not message[end:].strip():
            end = place.end()  # the parentheses were the message's own
        message = message[: place.start()] + message[end:].lstrip()
    return message.strip().rstrip(".")


def _signature_end(text: str, start: int) -> int:
    """The index behind the balanced parentheses that open after `start`, or `start` without any."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
            # `(anonymous namespace)::f(int)` and `operator()(int)` go on behind the first pair.
            if depth == 0 and not text.startswith((":", "("), index + 1):
                end = index + 1
                return end + len(" const") if text.startswith(" const ", end) else end
    return start


_RULES: tuple[tuple[str, type[FoundryError]], ...] = (
    (r"session\(s\) still using", ModelInUse),
    (r"must be downloaded|not cached|no openaiservice provider", ModelNotCached),
    (r"must be loaded|is not loaded|not loaded:", ModelNotLoaded),
    (r"load failed:", ModelLoadFailed),
    (r"maximum context length|exceeds max length", ContextOverflow),
    (r"error creating grammar|invalid grammar", GrammarError),
    (r"unsupported parameter", UnsupportedParameter),
    (r"no model matching|does not exist|model not found", ModelNotFound),
    (r"catalog request failed|failed to retrieve model list", CatalogUnavailable),
    (r"invalid (openai )?(json )?request|invalid json", InvalidRequest),
)
"""What the services say, first match first. Sources: foundry-local-service.md, sections 1 and 7."""

_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), error) for pattern, error in _RULES)


def classify(status: int, message: str) -> FoundryError:
    """The typed error for what a service said.

    The message decides before the status: 1.x answers 500 to malformed JSON and 2.0.1 answers 500
    to a context overflow, which are the caller's mistakes and must not be sent again.

    Args:
        status: HTTP status, or the one that the failure would have had (stream errors come in
            a 200).
        message: The service's own words.
    """
    told = clean(message) or f"the service answered HTTP {status} without a message"
    kind = next((error for pattern, error in _COMPILED if pattern.search(told)), None)
    if kind is ContextOverflow:
        return _context_overflow(told, status)
    return (kind or _by_status(status))(told, status=status)


def _by_status(status: int) -> type[FoundryError]:
    if status in {404, 405}:
        return RouteMissing
    if status < 400:  # noqa: PLR2004 - HTTP's classes
        return ProtocolError
    return InvalidRequest if status < 500 else ServerError  # noqa: PLR2004 - as above


_BUDGET = re.compile(
    r"\((?P<prompt>\d{1,9}) input \+ (?P<output>\d{1,9}) output\).*?length of (?P<context>\d{1,9})"
)


def _context_overflow(told: str, status: int) -> ContextOverflow:
    found = _BUDGET.search(told)
    if not found:
        return ContextOverflow(told, status=status)
    return ContextOverflow(
        told,
        status=status,
        prompt_tokens=int(found["prompt"]),
        max_tokens=int(found["output"]),
        context_length=int(found["context"]),
    )
