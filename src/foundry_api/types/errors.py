"""The exceptions of this package.

The tree::

    FoundryError
    ├── ConfigurationError              a setting or environment variable is invalid
    ├── ClientClosed                    the client was closed before or during the call
    ├── HookFailed                      a hook of the caller failed
    ├── InvalidRequest (ValueError)     the request is invalid; a retry would fail too
    │   ├── UnsupportedParameter        this service generation rejects the parameter
    │   ├── ContextOverflow             prompt plus max_tokens exceeds the context
    │   ├── GrammarError                the schema or grammar does not compile
    │   ├── ToolDefinitionError         a function cannot be a tool; in tools.errors
    │   └── ResponseNotFound (LookupError)  the service has no response with this ID
    ├── UnsupportedFeature              this service generation lacks the feature
    │   └── ToolMarkersMissing          the model does not define its tool-call markers
    ├── ModelError
    │   ├── ModelNotFound (LookupError) no model has that name
    │   ├── ModelNotCached              the model is not downloaded
    │   ├── ModelNotLoaded              the model is downloaded, but not in memory
    │   ├── ModelInUse                  the model cannot be unloaded while in use
    │   ├── MemoryBudgetExceeded        the model does not fit into memory
    │   ├── ModelTaskMismatch           the model is made for another task
    │   ├── ModelLoadFailed             the engine could not load the model's files
    │   ├── ModelRegistrationFailed     the directory is not a model the engine can serve
    │   ├── ModelImportFailed           a model could not be imported; in model_import.errors
    │   │   ├── ModelSourceUnsupported  the builder cannot convert this model
    │   │   └── ModelBuilderMissing     the packages that convert models are not installed
    │   ├── DownloadFailed              the download of a model was interrupted
    │   └── CatalogUnavailable          the catalog is unreachable, so names are unknown
    ├── StructuredOutputError           the answer is invalid, even after the repairs
    ├── ToolError
    │   ├── ToolCallError               the model's tool call cannot be parsed
    │   ├── ToolFailed                  a tool failed and on_error is "raise"; in tools.errors
    │   └── MaxTurnsExceeded            the model still calls tools; in tools.errors
    ├── BatchError                      a batch over files cannot start or continue
    │   ├── BatchInputInvalid (InvalidRequest)  the input is unreadable or has bad lines
    │   ├── BatchMismatch               the input differs from the one in the journal
    │   ├── BatchInUse                  another process works on the same batch
    │   ├── BatchStorageFailed          the journal or the output cannot be written
    │   └── BatchCancelled              the batch was cancelled
    ├── QueueFull                       too many calls wait in this client
    ├── CallTimeout (TimeoutError)      a time limit of the call expired
    │   ├── ReadTimeout                 no token for `timeout` seconds
    │   ├── DeadlineExceeded            the call took longer than its deadline
    │   │   └── DeadlineTooShort        too short for the prompt; in resilience.prompt_reading
    │   └── ConnectTimeout (ServiceNotRunning)  no connection within the time limit
    └── ServiceError
        ├── ServiceNotRunning           nothing listens at the address
        ├── CircuitOpen                 too many recent failures; nothing was sent
        ├── ServiceOverloaded           the service answered 429 or 503
        ├── ServiceCrashed              the service went away during a call
        ├── ServiceStartFailed          the engine host could not be started
        ├── RouteNotFound               the service has no such route
        ├── ProtocolError               the response violates the service's protocol
        ├── ServerError                 the service reports an internal error
        └── StreamInterrupted           a stream ended before the answer was complete

Every error has what happened (`message`) and what to do next (`hint`). Where known, it also has the
`model`, the `service`, the HTTP `status` and the number of `attempts`. More: `types.access_errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, TypedDict, Unpack

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
    "ToolError",
    "ToolMarkersMissing",
    "UnsupportedFeature",
    "UnsupportedParameter",
]


class ErrorDetails(TypedDict, total=False):
    """Keyword arguments of every error; `FoundryError` describes them."""

    hint: str | None
    model: str | None
    service: str | None
    status: int | None
    attempts: int
    partial: str


@dataclass(init=False, repr=False, eq=False)
class FoundryError(Exception):
    """The base class of all errors of this package.

    Attributes:
        message: What happened, in one sentence without a full stop.
        hint: What the caller can do next.
        model: The model of the call, if any.
        service: The base URL of the service, if any.
        status: The HTTP status of the response, if there was one.
        attempts: HTTP requests sent for the call; 0 if none was sent.
        previous_errors: The errors of the earlier attempts, oldest first.
        partial: The text of the answer received before the error.
        type: The name of the error's class.
        retryable: Whether the same call may succeed when it is sent again.
    """

    # Results contain errors, and msgspec encodes the fields of a dataclass.
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
        """Set `args` when msgspec decodes an error, which skips `__init__`."""
        # Printing an exception without args crashes the interpreter.
        super().__init__(self.message)

    @property
    def causes(self) -> tuple[FoundryError, ...]:
        """The error of each attempt, oldest first; the last one is this error."""
        return (*self.previous_errors, self)

    def with_context(
        self,
        *,
        model: str | None = None,
        service: str | None = None,
        attempts: int | None = None,
    ) -> Self:
        """Fill in what the raising code did not know, and return this error.

        Args:
            model: Set if the error has no model.
            service: Set if the error has no service.
            attempts: Replaces the number of attempts; None keeps it.
        """
        self.model = self.model or model
        self.service = self.service or service
        self.attempts = self.attempts if attempts is None else attempts
        return self

    def __str__(self) -> str:
        parts: list[str] = []
        if self.model and self.model not in self.message:
            parts.append(f"model {self.model}")
        if self.service and self.service not in self.message:
            parts.append(f"service {self.service}")
        if self.status and f"HTTP {self.status}" not in self.message:
            parts.append(f"HTTP {self.status}")
        if self.attempts > 1:
            parts.append(f"after {self.attempts} attempts")
        text = f"{self.message} ({', '.join(parts)})." if parts else f"{self.message}."
        return f"{text} {self.hint}" if self.hint else text


class ConfigurationError(FoundryError):
    """A setting or an environment variable is invalid."""


class ClientClosed(FoundryError):
    """The client was closed before or during the call."""

    default_hint = "Create a new client, or keep this one open until its calls are done."


class QueueFull(FoundryError):
    """Too many calls wait in this client; nothing was sent."""

    default_hint = "Call again later, start fewer calls at once, or allow a longer queue."


class HookFailed(FoundryError):
    """A hook, an `auth` callable or a custom transport of the caller failed."""

    default_hint = "See the exception it was raised from, and correct the hook."


class InvalidRequest(FoundryError, ValueError):
    """The request is invalid; sending it again would fail too.

    Attributes:
        field: The name of the invalid argument, if it is known.
    """

    default_hint = "Correct the argument and call again."

    def __init__(
        self, message: str, *, field: str | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.field = field


class UnsupportedParameter(InvalidRequest):
    """This generation of the service rejects the parameter."""

    default_hint = "Leave the parameter out."


class ContextOverflow(InvalidRequest):
    """Prompt plus max_tokens exceeds the model's context.

    Attributes:
        prompt_tokens: Tokens of the prompt, if the service counted them.
        max_tokens: The requested limit of output tokens; None if the caller set none.
        context_length: Tokens in the model's context, prompt and answer together.
    """

    default_hint = "Shorten the prompt, lower max_tokens, or use a model with more context."

    def __init__(
        self,
        message: str,
        *,
        prompt_tokens: int | None = None,
        max_tokens: int | None = None,
        context_length: int | None = None,
        **details: Unpack[ErrorDetails],
    ) -> None:
        super().__init__(message, field="max_tokens", **details)
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context_length = context_length

    def blame_prompt(self) -> None:
        """Report the prompt as too long, for a call without max_tokens."""
        # The service adds its default of 2048 output tokens and names that sum in its message.
        self.field, self.max_tokens = "prompt", None
        self.hint = "Shorten the prompt, or use a model with more context."
        if self.prompt_tokens is not None and self.context_length is not None:
            self.message = (
                f"the prompt has {self.prompt_tokens} tokens, which leaves no room for an answer "
                f"in the model's context of {self.context_length}"
            )

    @property
    def available_tokens(self) -> int | None:
        """Tokens left for the answer; None if there are none or the counts are unknown."""
        if self.context_length is None or self.prompt_tokens is None:
            return None
        left = self.context_length - self.prompt_tokens
        return left if left > 0 else None


class GrammarError(InvalidRequest):
    """The schema or grammar of the request does not compile."""

    default_hint = "Correct the schema or grammar; the message says where."


class ResponseNotFound(InvalidRequest, LookupError):
    """The service has no response with this ID; it stores only the last 20, in memory."""

    default_hint = "Store it with store=True, or send the complete conversation instead."


class UnsupportedFeature(FoundryError):
    """This service's generation lacks the feature that `field`, if set, names; nothing was sent."""

    default_hint = "Use a newer Foundry Local, or the embedded engine: service='embedded'."

    def __init__(
        self, message: str, *, field: str | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.field = field


class StructuredOutputError(FoundryError):
    """The answer failed validation, also after the repairs; its text is in `partial`.

    If a parser or validator of the caller failed, its exception is the `__cause__`.

    Attributes:
        errors: The problems, one sentence each, with a path such as `$.age`.
        repairs: How many repairs were requested from the model.
        finish_reason: Why the last answer ended, such as `length` if it was truncated.
        prompt_tokens: Tokens of the prompts of all answers; 0 if the service counted none.
        completion_tokens: Tokens of all answers; 0 as above.
    """

    default_hint = (
        "The text is in .partial; describe the format in the prompt, or use a larger model."
    )
    cut_hint = (
        "The text is in .partial; raise max_tokens, or limit the strings and arrays of the schema."
    )

    def __init__(
        self,
        message: str,
        *,
        errors: tuple[str, ...] = (),
        repairs: int = 0,
        finish_reason: str | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        **details: Unpack[ErrorDetails],
    ) -> None:
        if details.get("hint") is None and finish_reason == "length":
            details["hint"] = self.cut_hint
        super().__init__(message, **details)
        self.errors = errors
        self.repairs = repairs
        self.finish_reason = finish_reason
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class ModelError(FoundryError):
    """A model is not in the state that the call needs.

    Attributes:
        users: The users of the models that prevent the call, if that is the reason.
    """

    users: tuple[ModelUser, ...] = ()

    def with_users(self, users: Iterable[ModelUser]) -> Self:
        """Set `users`, and return this error."""
        self.users = tuple(users)
        return self


class ModelNotFound(ModelError, LookupError):
    """The service knows no model with that name.

    Attributes:
        nearest: Known names that are similar, best match first.
    """

    default_hint = "List the models with `foundry-api models list`; `demo` always works."

    def __init__(
        self, message: str, *, nearest: Sequence[str] = (), **details: Unpack[ErrorDetails]
    ) -> None:
        if details.get("hint") is None and nearest:
            details["hint"] = f"Did you mean {' or '.join(nearest)}? {self.default_hint}"
        super().__init__(message, **details)
        self.nearest = tuple(nearest)


class ModelNotCached(ModelError):
    """The model is known, but not downloaded to this machine."""

    default_hint = "Run `foundry-api models pull NAME` or pass download=True; `demo` works now."


class ModelNotLoaded(ModelError):
    """The model is downloaded, but not loaded into memory."""

    default_hint = "Load it with client.models.load(NAME) or `foundry-api models load NAME`."
    retryable = True


class ModelInUse(ModelError):
    """The model cannot be unloaded while it is in use; `users` lists its users, if known."""

    default_hint = "Wait for the running calls to end, then unload again."


class MemoryBudgetExceeded(ModelError):
    """The model does not fit into memory together with the models that `users` need."""

    default_hint = "Unload a model, or raise FOUNDRY_MEMORY_BUDGET or residency=."


class ModelTaskMismatch(ModelError):
    """The model is made for another task: a chat model cannot embed or transcribe."""

    default_hint = "Choose another model; `foundry-api models list` shows the task of each."


class ModelLoadFailed(ModelError):
    """The engine could not load the model's files."""

    default_hint = "See the engine's log, or run `foundry-api models register DIRECTORY --check`."


class ModelRegistrationFailed(ModelError):
    """The directory does not contain a model that the engine can serve."""

    default_hint = "It needs genai_config.json, ONNX files, tokenizer.json, tokenizer_config.json."


class DownloadFailed(ModelError):
    """The download of a model was interrupted."""

    default_hint = "Check the network and the disk, then pull again; it resumes where it stopped."


class CatalogUnavailable(ModelError):
    """The model catalog is unreachable, so only local models are known."""

    default_hint = "Check the network; cached models and `demo` work without it."


class ServiceError(FoundryError):
    """The service failed."""


class ServiceNotRunning(ServiceError):
    """Nothing listens at the service's address."""

    default_hint = "Start one with `foundry-api up`, or find one with `foundry-api status`."
    retryable = True


class CircuitOpen(ServiceError):
    """The service failed too often recently, so its circuit breaker rejected the call.

    Attributes:
        retry_after_s: Seconds until the breaker allows a trial call.
    """

    default_hint = "See the causes of its failures in the log, or use another service."

    def __init__(
        self, message: str, *, retry_after_s: float = 0.0, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class ServiceOverloaded(ServiceError):
    """The service is overloaded: it answered HTTP 429 or 503.

    Attributes:
        retry_after_s: Seconds to wait, from its Retry-After header; None without one.
    """

    default_hint = "Call again later, or send fewer calls at once."
    retryable = True

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class ServiceCrashed(ServiceError):
    """The service went away during a call."""

    default_hint = "Call again: an embedded engine restarts; start any other service yourself."
    retryable = True


class ServiceStartFailed(ServiceError):
    """The engine host could not be started.

    Attributes:
        log_path: The host's log file; None if the host failed before it opened one.
    """

    default_hint = "See the log for the cause."

    def __init__(
        self, message: str, *, log_path: str | None = None, **details: Unpack[ErrorDetails]
    ) -> None:
        if details.get("hint") is None and log_path:
            details["hint"] = f"The cause is in its log: {log_path}"
        super().__init__(message, **details)
        self.log_path = log_path


class RouteNotFound(ServiceError):
    """The service lacks a route that its generation should have; its version may be unknown."""

    default_hint = "See what runs there with `foundry-api status`, or use service='embedded'."


class ProtocolError(ServiceError):
    """The response violates the service's protocol or exceeds a size limit."""

    default_hint = "Check that the address is a Foundry Local service: `foundry-api status`."


class ServerError(ServiceError):
    """The service reports an internal error."""

    default_hint = "Call again; if the error persists, see the engine's log."
    retryable = True


class StreamInterrupted(ServiceError):
    """A stream ended without a finish reason or end marker, so the answer is incomplete."""

    default_hint = "The text so far is in .partial; call again for a complete answer."
    retryable = True


class CallTimeout(FoundryError, TimeoutError):
    """A time limit of the call expired; the engine's work was cancelled.

    An engine that is reading the prompt can't be stopped: it reads it to its end.

    Attributes:
        limit_s: The limit, in seconds.
        stage: What the call was doing, such as `waiting for the first token`.
        is_still_reading: Whether the engine reads the prompt to its end. Meanwhile the call keeps
            its place among those in flight.
        reading_s: Estimated seconds until it has read the prompt; None if unknown.
    """

    is_still_reading: bool = False
    reading_s: float | None = None
    default_hint = "Raise the limit, shorten the prompt, or lower max_tokens."

    def __init__(
        self,
        message: str,
        *,
        limit_s: float = 0.0,
        stage: str = "",
        **details: Unpack[ErrorDetails],
    ) -> None:
        super().__init__(message, **details)
        self.limit_s = limit_s
        self.stage = stage


class ReadTimeout(CallTimeout):
    """The service sent no token for `timeout` seconds.

    Attributes:
        has_keep_alives: Whether it sent keep-alives.
    """

    has_keep_alives: bool = False
    default_hint = "Raise timeout= or FOUNDRY_TIMEOUT, shorten the prompt, or use a smaller model."


class DeadlineExceeded(CallTimeout):
    """The call, including queueing and retries, took longer than its deadline."""

    default_hint = "Raise the deadline, shorten the prompt, or lower max_tokens."


class ConnectTimeout(CallTimeout, ServiceNotRunning):
    """The service's address accepted no connection within the time limit."""

    default_hint = "Check the address and whether a firewall drops packets to it."


class BatchError(FoundryError):
    """A batch cannot start or continue. Answers received before are stored."""


class BatchInputInvalid(BatchError, InvalidRequest):
    """The input is unreadable, has bad lines, or is also an output file.

    Attributes:
        problems: The first bad lines, and what is wrong with each.
    """

    problems: tuple[str, ...] = ()

    def with_problems(self, problems: tuple[str, ...]) -> BatchInputInvalid:
        """Set `problems`, and return this error."""
        self.problems = problems
        return self


class BatchMismatch(BatchError):
    """The input or the options differ from those in the batch's journal."""

    default_hint = (
        "Restore the input and options, or choose another output; --restart discards the answers "
        "received so far."
    )


class BatchInUse(BatchError):
    """Another process works on the same batch."""

    default_hint = "Wait for it, or run all of them with --shared to split the work."


class BatchStorageFailed(BatchError):
    """The journal or the output cannot be written or read."""

    default_hint = "Free disk space or repair the directory, then run the same command to resume."


class BatchCancelled(BatchError):
    """The batch was cancelled with `batch cancel`."""

    default_hint = "The answers received so far are stored."


class ToolMarkersMissing(UnsupportedFeature):
    """The model does not define the markers by which the service finds its tool calls."""

    default_hint = "Use a model trained to call tools, or leave tool_choice out."


class ToolError(FoundryError):
    """A tool call failed."""


class ToolCallError(ToolError):
    """A tool call of the model cannot be parsed.

    Attributes:
        text: What the model wrote, if the service returns it.
        finish_reason: `length` if max_tokens truncated the call; else None.
    """

    default_hint = "Call again, with a higher max_tokens or a model trained to call tools."
    cut_hint = "Raise max_tokens."

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        finish_reason: str | None = None,
        **details: Unpack[ErrorDetails],
    ) -> None:
        if details.get("hint") is None and finish_reason == "length":
            details["hint"] = self.cut_hint
        super().__init__(message, **details)
        self.text = text
        self.finish_reason = finish_reason
