"""Every failure this package raises.

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
    │   ├── ToolFailed                  a tool failed, and the model was not to be told
    │   └── ToolRoundsExceeded          the model did not come to an end of calling tools
    ├── BatchError                      a batch over files cannot begin or go on
    │   ├── BatchInputInvalid (InvalidRequest)  the input cannot be read, or has bad lines
    │   ├── BatchChanged                the input is not what the journal was begun with
    │   ├── BatchInUse                  another process works on the same batch
    │   ├── BatchStorageFailed          the journal or the output cannot be written
    │   └── BatchCancelled              it was cancelled
    ├── QueueFull                       too many calls wait for their turn in this client
    ├── CallTimeout (TimeoutError)      a time bound of the call fell
    │   ├── SilenceTimeout              no token for `timeout` seconds
    │   ├── DeadlineExceeded            the call as a whole took longer than its deadline
    │   └── ConnectTimeout (ServiceNotRunning)  no connection was made in time
    └── ServiceError
        ├── ServiceNotRunning           nothing answers at the address
        ├── CircuitOpen                 it failed too often lately, so nothing was sent
        ├── ServiceOverloaded           it answered 429 or 503: it has more than it can do
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

from foundry_api.errors.answers import StructuredOutputError
from foundry_api.errors.base import FoundryError
from foundry_api.errors.batch import (
    BatchCancelled,
    BatchChanged,
    BatchError,
    BatchInputInvalid,
    BatchInUse,
    BatchStorageFailed,
)
from foundry_api.errors.client import ClientClosed, ConfigurationError, HookFailed, QueueFull
from foundry_api.errors.model import (
    CatalogUnavailable,
    DownloadFailed,
    MemoryBudgetExceeded,
    ModelError,
    ModelInUse,
    ModelLoadFailed,
    ModelNotCached,
    ModelNotFound,
    ModelNotLoaded,
    ModelRegistrationFailed,
    ModelTaskMismatch,
)
from foundry_api.errors.request import (
    ContextOverflow,
    GrammarError,
    InvalidRequest,
    ResponseNotFound,
    UnsupportedFeature,
    UnsupportedParameter,
)
from foundry_api.errors.service import (
    CircuitOpen,
    ProtocolError,
    RouteMissing,
    ServerError,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    ServiceOverloaded,
    ServiceStartFailed,
    StreamInterrupted,
)
from foundry_api.errors.timeouts import (
    CallTimeout,
    ConnectTimeout,
    DeadlineExceeded,
    SilenceTimeout,
)
from foundry_api.errors.tools import (
    ToolCallError,
    ToolDefinitionError,
    ToolError,
    ToolFailed,
    ToolMarkersMissing,
    ToolRoundsExceeded,
)

__all__ = [
    "BatchCancelled",
    "BatchChanged",
    "BatchError",
    "BatchInUse",
    "BatchInputInvalid",
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
    "ResponseNotFound",
    "RouteMissing",
    "ServerError",
    "ServiceCrashed",
    "ServiceError",
    "ServiceNotRunning",
    "ServiceOverloaded",
    "ServiceStartFailed",
    "SilenceTimeout",
    "StreamInterrupted",
    "StructuredOutputError",
    "ToolCallError",
    "ToolDefinitionError",
    "ToolError",
    "ToolFailed",
    "ToolMarkersMissing",
    "ToolRoundsExceeded",
    "UnsupportedFeature",
    "UnsupportedParameter",
]
