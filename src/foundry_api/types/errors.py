"""The exceptions that this package raises.

The tree::

    FoundryError
    ├── ConfigurationError              a setting or environment variable cannot be used
    ├── ClientClosed                    the client was closed before or during the call
    ├── HookFailed                      a hook of the caller's failed
    ├── InvalidRequest (ValueError)     the caller's mistake; sending it again changes nothing
    │   ├── UnsupportedParameter        this generation of the service refuses the parameter
    │   ├── ContextOverflow             prompt plus max_tokens is larger than the context
    │   ├── GrammarError                the schema or grammar does not compile
    │   ├── ToolDefinitionError         a function cannot be described as a tool
    │   └── ResponseNotFound (LookupError)  the service keeps no such response
    ├── UnsupportedFeature              this generation of the service cannot do it at all
    │   └── ToolMarkersMissing          the model does not name what marks its calls of tools
    ├── ModelError
    │   ├── ModelNotFound (LookupError) no model of that name is known
    │   ├── ModelNotCached              known, but its files are not on this machine
    │   ├── ModelNotLoaded              its files are here, but it is not in memory
    │   ├── ModelInUse                  it cannot be unloaded while somebody uses it
    │   ├── MemoryBudgetExceeded        it does not fit beside the models that are used
    │   ├── ModelTaskMismatch           it is made for something else
    │   ├── ModelLoadFailed             the engine could not load its files
    │   ├── ModelRegistrationFailed     the directory is not a model the engine can serve
    │   ├── DownloadFailed              the download broke off
    │   └── CatalogUnavailable          the catalog could not be reached, so names are unknown
    ├── StructuredOutputError           the answer is not what it has to be, asked again or not
    ├── ToolError
    │   ├── ToolCallError               the model's call of a tool cannot be read
    │   ├── ToolFailed                  a tool failed, and on_error is "raise"; in tools.errors
    │   └── MaxTurnsExceeded            too many turns with tools; in tools.errors
    ├── BatchError                      a batch over files cannot begin or go on
    │   ├── BatchInputInvalid (InvalidRequest)  the input cannot be read, or has bad lines
    │   ├── BatchMismatch                the input is not what the journal was begun with
    │   ├── BatchInUse                  another process works on the same batch
    │   ├── BatchStorageFailed          the journal or the output cannot be written
    │   └── BatchCancelled              it was cancelled
    ├── QueueFull                       too many calls wait for their turn in this client
    ├── CallTimeout (TimeoutError)      a time bound of the call fell
    │   ├── ReadTimeout              no token for `timeout` seconds
    │   ├── DeadlineExceeded            the call took longer than its deadline
    │   └── ConnectTimeout (ServiceNotRunning)  no connection was made in time
    └── ServiceError
        ├── ServiceNotRunning           nothing answers at the address
        ├── CircuitOpen                 it failed too often lately, so nothing was sent
        ├── ServiceOverloaded           it answered 429 or 503: it has more than it can do
        ├── ServiceCrashed              the service went away during a call
        ├── ServiceStartFailed          the engine host could not be started
        ├── RouteNotFound                the service has no such route: another generation?
        ├── ProtocolError               the service sent what its protocol does not allow
        ├── ServerError                 the service failed and says it is its own fault
        └── StreamInterrupted           a stream ended before its answer did

Every error tells what happened (`message`), what to do next (`hint`), and, where they are known,
the `model`, the `service`, the HTTP `status` and the number of `attempts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.types.models import ModelUser

__all__ = [
    "BatchCancelled",
    "BatchError",
    "BatchInUse",
    "BatchInputInvalid",
    "BatchMismatch",
    "BatchStorageFailed",
    "CallTimeout",
    "CatalogUnavailable",
    "CircuitOpen",
    "ClientClosed",
    "ConfigurationError",
    "ConnectTimeout",
    "ContextOverflow",
    "DeadlineExceeded",
    "DownloadFailed",
    "FoundryError",
    "GrammarError",
    "HookFailed",
    "InvalidRequest",
    "MemoryBudgetExceeded",
    "ModelError",
    "ModelInUse",
    "ModelLoadFailed",
    "ModelNotCached",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelRegistrationFailed",
    "ModelTaskMismatch",
    "ProtocolError",
    "QueueFull",
    "ReadTimeout",
    "ResponseNotFound",
    "RouteNotFound",
    "ServerError",
    "ServiceCrashed",
    "ServiceError",
    "ServiceNotRunning",
    "ServiceOverloaded",
    "ServiceStartFailed",
    "StreamInterrupted",
    "StructuredOutputError",
    "ToolCallError",
    "ToolDefinitionError",
    "ToolError",
    "ToolMarkersMissing",
    "UnsupportedFeature",
    "UnsupportedParameter",
]


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
        previous_errors: What ended the attempts before the one that this error ended, oldest first.
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
    previous_errors: tuple[FoundryError, ...]
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
        self.previous_errors = ()
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
        return (*self.previous_errors, self)

    def with_context(
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
        where = ", ".join(self._context_suffix())
        text = f"{self.message} ({where})." if where else f"{self.message}."
        return f"{text} {self.hint}" if self.hint else text

    def _context_suffix(self) -> list[str]:
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

    default_hint = "Create a new client, or keep this one open until its calls are done."


class QueueFull(FoundryError):
    """Too many calls wait for their turn in this client; nothing was sent."""

    default_hint = "Call again later, start fewer calls at once, or allow a longer queue."


class HookFailed(FoundryError):
    """A hook, the callable that gives the credential, or a transport of the caller's own failed."""

    default_hint = "See the exception that it was raised from, and correct the hook."


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
    def available_tokens(self) -> int | None:
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


class ModelError(FoundryError):
    """A model is not in the state that the call needs.

    Attributes:
        users: Who uses the models in the way, where that is why.
    """

    users: tuple[ModelUser, ...] = ()

    def with_users(self, users: Iterable[ModelUser]) -> Self:
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


class ServiceError(FoundryError):
    """The service, not the request, is at fault."""


class ServiceNotRunning(ServiceError):
    """Nothing answers at the service's address."""

    default_hint = (
        "Start one with `foundry-api up`, or see what is there with `foundry-api status`."
    )
    retryable = True


class CircuitOpen(ServiceError):
    """The service failed too often lately, so the circuit breaker let nothing through to it.

    Attributes:
        retry_after_s: Seconds until the breaker will let a call through.
    """

    default_hint = "See the causes of its failures in the log, or use another service."

    def __init__(
        self, message: str, *, retry_after_s: float = 0.0, service: str | None = None
    ) -> None:
        super().__init__(message, service=service)
        self.retry_after_s = retry_after_s


class ServiceOverloaded(ServiceError):
    """The service has more to do than it can: HTTP 429 or 503.

    Attributes:
        retry_after_s: Seconds after which it wants to be asked again; None if it did not say.
    """

    default_hint = "Call again later, or send fewer calls at once."
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        service: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, service=service, status=status)
        self.retry_after_s = retry_after_s


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


class RouteNotFound(ServiceError):
    """The service has no such route, though its generation does: a version nobody has met yet?"""

    default_hint = "See what answers there with `foundry-api status`, or use service='embedded'."


class ProtocolError(ServiceError):
    """The service sent bytes that its protocol does not allow, or more than the bounds allow."""

    default_hint = "Check that the address is a Foundry Local service: `foundry-api status`."


class ServerError(ServiceError):
    """The service failed and says that it is its own fault."""

    default_hint = "Call again; if it persists, the engine's log tells more."
    retryable = True


class StreamInterrupted(ServiceError):
    """A stream ended without finish reason or end mark: the answer is incomplete."""

    default_hint = "The text so far is in .partial; call again for a whole answer."
    retryable = True


class CallTimeout(FoundryError, TimeoutError):
    """A time bound of the call fell; the engine's work was stopped.

    Attributes:
        limit_s: The bound that fell, in seconds.
        stage: How far the call was, such as `waiting for the first token`.
    """

    default_hint = "Raise the bound, or ask for less: a shorter prompt, fewer max_tokens."

    def __init__(
        self,
        message: str,
        *,
        limit_s: float = 0.0,
        stage: str = "",
        hint: str | None = None,
        service: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, service=service)
        self.limit_s = limit_s
        self.stage = stage


class ReadTimeout(CallTimeout):
    """No token came for `timeout` seconds."""

    default_hint = "Raise timeout= or FOUNDRY_TIMEOUT, shorten the prompt, or use a smaller model."


class DeadlineExceeded(CallTimeout):
    """The call, including queueing and retries, took longer than its deadline."""

    default_hint = "Allow a later deadline, or ask for less: a shorter prompt, fewer max_tokens."


class ConnectTimeout(CallTimeout, ServiceNotRunning):
    """The service's address did not accept a connection in time."""

    default_hint = "Check the address and whether a firewall drops packets to it."


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


class BatchMismatch(BatchError):
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


class ToolDefinitionError(InvalidRequest):
    """A function cannot be described to a model as a tool. `field` names the parameter at fault."""

    default_hint = "Give every parameter a type that JSON has, and the function a plain name."


class ToolMarkersMissing(UnsupportedFeature):
    """The model does not name the markers of tool calls, which the service needs to find them."""

    default_hint = "Use a model that was made to call tools, or leave tool_choice out."


class ToolError(FoundryError):
    """Something is wrong about a call of a tool."""


class ToolCallError(ToolError):
    """The model wanted to call a tool, but its call cannot be read.

    Attributes:
        text: What the model wrote, where the service shows it.
        finish_reason: `length` for a call that was cut at the greatest length of the answer; else
            None.
    """

    default_hint = (
        "Ask again, with a higher max_tokens if the call was cut, or use a model that was made to "
        "call tools."
    )

    cut_hint = "Allow more max_tokens."

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        hint: str | None = None,
        model: str | None = None,
        service: str | None = None,
        status: int | None = None,
        finish_reason: str | None = None,
    ) -> None:
        if hint is None and finish_reason == "length":
            hint = self.cut_hint
        super().__init__(message, hint=hint, model=model, service=service, status=status)
        self.text = text
        self.finish_reason = finish_reason
