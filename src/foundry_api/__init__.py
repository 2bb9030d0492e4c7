"""Microsoft Foundry Local as an API in production: direct HTTP, without the OpenAI SDK.

>>> from foundry_api import FoundryAPIClient
>>> async with FoundryAPIClient() as client:
...     response = await client.complete(prompt="Explain quantum computing", model="demo")
...     print(response.content)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from foundry_api._version import __version__

# The public names by module. Each is imported when it is first used, so that importing the package
# costs nothing. Type checkers read the imports below instead; a test compares the two.
_NAMES_BY_MODULE = {
    "batch.types": ("BatchKeywords", "BatchOptions", "BatchRequest", "BatchResult", "InputOptions"),
    "client.client": ("FoundryAPIClient",),
    "client.models": ("Models",),
    "client.responses": ("Conversation", "Responses"),
    "client.sync": (
        "FoundryClient",
        "SyncCache",
        "SyncConversation",
        "SyncModels",
        "SyncResponses",
    ),
    "core.cache.base": ("CacheStats", "ResponseCache"),
    "core.cache.memory": ("MemoryCache",),
    "core.cache.sqlite": ("SqliteCache",),
    "core.catalog": ("CatalogListing",),
    "core.downloads": ("DownloadProgress",),
    "core.options": (
        "ChatOptions",
        "CompletionOptions",
        "ModelOptions",
        "ResponseOptions",
        "StructuredOptions",
        "TimeOptions",
    ),
    "core.residency.policy": ("ModelResidency",),
    "model_import.errors": ("ModelBuilderMissing", "ModelImportFailed", "ModelSourceUnsupported"),
    "model_import.types": ("ImportProgress",),
    "monitor.health": ("HealthStatus",),
    "monitor.monitor": (
        "AlertCommand",
        "AlertWebhook",
        "Canary",
        "HealthChanged",
        "HealthMonitor",
        "HealthSample",
        "HealthSummary",
        "Hysteresis",
        "Traffic",
    ),
    "observe.call_log": ("CallLog",),
    "observe.metrics": ("Metrics",),
    "observe.snapshot": ("MetricsSnapshot", "SeriesSnapshot"),
    "resilience.breaker": ("BreakerSettings", "BreakerStatistics"),
    "resilience.deadline": ("deadline",),
    "resilience.limiter": ("LimiterSettings", "LimiterStatistics"),
    "resilience.prompt_reading": ("DeadlineTooShort",),
    "tools.definition": ("Tool", "tool"),
    "tools.errors": ("MaxTurnsExceeded", "ToolDefinitionError", "ToolFailed"),
    "tools.results": ("ToolResult", "ToolRun"),
    "types.access_errors": ("AuthenticationFailed", "PermissionDenied", "QuotaExceeded"),
    "types.capabilities": ("Capabilities", "Support"),
    "types.errors": (
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
    ),
    "types.events": (
        "AttemptStarted",
        "BreakerChanged",
        "CacheHit",
        "CacheMiss",
        "CacheStored",
        "CacheTrouble",
        "CallEnded",
        "CallStarted",
        "Event",
        "FirstToken",
        "ModelLoaded",
        "ModelUnloaded",
        "RetryScheduled",
    ),
    "types.messages": (
        "AttemptRecord",
        "Chunk",
        "Completion",
        "FinishReason",
        "FunctionCall",
        "Message",
        "Role",
        "ServiceGeneration",
        "Timings",
        "ToolCall",
        "ToolDefinition",
        "Usage",
    ),
    "types.models": ("Model", "ModelUser"),
    "types.results": (
        "Embeddings",
        "RawResponse",
        "Response",
        "ResponseEvent",
        "ResponseItem",
        "ResponsePage",
        "Transcription",
        "TranscriptionChunk",
    ),
    "types.settings": ("Settings",),
    "wire.hooks": ("Auth", "RequestHook", "ResponseHook"),
    "wire.transport": ("Request", "ResponseHead"),
}
_MODULES_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

__all__ = [  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # the table's keys
    "__version__",
    *_MODULES_BY_NAME,
]

if TYPE_CHECKING:
    # `X as X` is how a typed package marks a name as re-exported. isort is off because it would
    # write one statement per name.
    # isort: off
    from foundry_api.batch.types import (
        BatchKeywords as BatchKeywords,
        BatchOptions as BatchOptions,
        BatchRequest as BatchRequest,
        BatchResult as BatchResult,
        InputOptions as InputOptions,
    )
    from foundry_api.client.client import FoundryAPIClient as FoundryAPIClient
    from foundry_api.client.models import Models as Models
    from foundry_api.client.responses import Conversation as Conversation, Responses as Responses
    from foundry_api.client.sync import (
        FoundryClient as FoundryClient,
        SyncCache as SyncCache,
        SyncConversation as SyncConversation,
        SyncModels as SyncModels,
        SyncResponses as SyncResponses,
    )
    from foundry_api.core.cache.base import CacheStats as CacheStats, ResponseCache as ResponseCache
    from foundry_api.core.cache.memory import MemoryCache as MemoryCache
    from foundry_api.core.cache.sqlite import SqliteCache as SqliteCache
    from foundry_api.core.catalog import CatalogListing as CatalogListing
    from foundry_api.core.downloads import DownloadProgress as DownloadProgress
    from foundry_api.core.options import (
        ChatOptions as ChatOptions,
        CompletionOptions as CompletionOptions,
        ModelOptions as ModelOptions,
        ResponseOptions as ResponseOptions,
        StructuredOptions as StructuredOptions,
        TimeOptions as TimeOptions,
    )
    from foundry_api.core.residency.policy import ModelResidency as ModelResidency
    from foundry_api.model_import.errors import ModelBuilderMissing as ModelBuilderMissing
    from foundry_api.model_import.errors import ModelImportFailed as ModelImportFailed
    from foundry_api.model_import.errors import ModelSourceUnsupported as ModelSourceUnsupported
    from foundry_api.model_import.types import ImportProgress as ImportProgress
    from foundry_api.monitor.health import HealthStatus as HealthStatus
    from foundry_api.monitor.monitor import (
        AlertCommand as AlertCommand,
        AlertWebhook as AlertWebhook,
        Canary as Canary,
        HealthChanged as HealthChanged,
        HealthMonitor as HealthMonitor,
        HealthSample as HealthSample,
        HealthSummary as HealthSummary,
        Hysteresis as Hysteresis,
        Traffic as Traffic,
    )
    from foundry_api.observe.call_log import CallLog as CallLog
    from foundry_api.observe.metrics import Metrics as Metrics
    from foundry_api.observe.snapshot import (
        MetricsSnapshot as MetricsSnapshot,
        SeriesSnapshot as SeriesSnapshot,
    )
    from foundry_api.resilience.breaker import (
        BreakerSettings as BreakerSettings,
        BreakerStatistics as BreakerStatistics,
    )
    from foundry_api.resilience.deadline import deadline as deadline
    from foundry_api.resilience.limiter import (
        LimiterSettings as LimiterSettings,
        LimiterStatistics as LimiterStatistics,
    )
    from foundry_api.resilience.prompt_reading import DeadlineTooShort as DeadlineTooShort
    from foundry_api.tools.definition import Tool as Tool, tool as tool
    from foundry_api.tools.errors import (
        MaxTurnsExceeded as MaxTurnsExceeded,
        ToolDefinitionError as ToolDefinitionError,
        ToolFailed as ToolFailed,
    )
    from foundry_api.tools.results import ToolResult as ToolResult, ToolRun as ToolRun
    from foundry_api.types.access_errors import (
        AuthenticationFailed as AuthenticationFailed,
        PermissionDenied as PermissionDenied,
        QuotaExceeded as QuotaExceeded,
    )
    from foundry_api.types.capabilities import Capabilities as Capabilities, Support as Support
    from foundry_api.types.errors import (
        BatchCancelled as BatchCancelled,
        BatchError as BatchError,
        BatchInUse as BatchInUse,
        BatchInputInvalid as BatchInputInvalid,
        BatchMismatch as BatchMismatch,
        BatchStorageFailed as BatchStorageFailed,
        CallTimeout as CallTimeout,
        CatalogUnavailable as CatalogUnavailable,
        CircuitOpen as CircuitOpen,
        ClientClosed as ClientClosed,
        ConfigurationError as ConfigurationError,
        ConnectTimeout as ConnectTimeout,
        ContextOverflow as ContextOverflow,
        DeadlineExceeded as DeadlineExceeded,
        DownloadFailed as DownloadFailed,
        FoundryError as FoundryError,
        GrammarError as GrammarError,
        HookFailed as HookFailed,
        InvalidRequest as InvalidRequest,
        MemoryBudgetExceeded as MemoryBudgetExceeded,
        ModelError as ModelError,
        ModelInUse as ModelInUse,
        ModelLoadFailed as ModelLoadFailed,
        ModelNotCached as ModelNotCached,
        ModelNotFound as ModelNotFound,
        ModelNotLoaded as ModelNotLoaded,
        ModelRegistrationFailed as ModelRegistrationFailed,
        ModelTaskMismatch as ModelTaskMismatch,
        ProtocolError as ProtocolError,
        QueueFull as QueueFull,
        ReadTimeout as ReadTimeout,
        ResponseNotFound as ResponseNotFound,
        RouteNotFound as RouteNotFound,
        ServerError as ServerError,
        ServiceCrashed as ServiceCrashed,
        ServiceError as ServiceError,
        ServiceNotRunning as ServiceNotRunning,
        ServiceOverloaded as ServiceOverloaded,
        ServiceStartFailed as ServiceStartFailed,
        StreamInterrupted as StreamInterrupted,
        StructuredOutputError as StructuredOutputError,
        ToolCallError as ToolCallError,
        ToolError as ToolError,
        ToolMarkersMissing as ToolMarkersMissing,
        UnsupportedFeature as UnsupportedFeature,
        UnsupportedParameter as UnsupportedParameter,
    )
    from foundry_api.types.events import (
        AttemptStarted as AttemptStarted,
        BreakerChanged as BreakerChanged,
        CacheHit as CacheHit,
        CacheMiss as CacheMiss,
        CacheStored as CacheStored,
        CacheTrouble as CacheTrouble,
        CallEnded as CallEnded,
        CallStarted as CallStarted,
        Event as Event,
        FirstToken as FirstToken,
        ModelLoaded as ModelLoaded,
        ModelUnloaded as ModelUnloaded,
        RetryScheduled as RetryScheduled,
    )
    from foundry_api.types.messages import (
        AttemptRecord as AttemptRecord,
        Chunk as Chunk,
        Completion as Completion,
        FinishReason as FinishReason,
        FunctionCall as FunctionCall,
        Message as Message,
        Role as Role,
        ServiceGeneration as ServiceGeneration,
        Timings as Timings,
        ToolCall as ToolCall,
        ToolDefinition as ToolDefinition,
        Usage as Usage,
    )
    from foundry_api.types.models import Model as Model, ModelUser as ModelUser
    from foundry_api.types.results import (
        Embeddings as Embeddings,
        RawResponse as RawResponse,
        Response as Response,
        ResponseEvent as ResponseEvent,
        ResponseItem as ResponseItem,
        ResponsePage as ResponsePage,
        Transcription as Transcription,
        TranscriptionChunk as TranscriptionChunk,
    )
    from foundry_api.types.settings import Settings as Settings
    from foundry_api.wire.hooks import (
        Auth as Auth,
        RequestHook as RequestHook,
        ResponseHook as ResponseHook,
    )
    from foundry_api.wire.transport import Request as Request, ResponseHead as ResponseHead
    # isort: on
else:
    # Hidden from type checkers: with a module `__getattr__` they would accept any name.

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _MODULES_BY_NAME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES_BY_NAME[name]}")
        value = getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
