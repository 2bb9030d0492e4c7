"""Microsoft Foundry Local as an API in production: direct HTTP, without the OpenAI SDK.

>>> from foundry_api import FoundryAPIClient
>>> async with FoundryAPIClient() as client:
...     response = await client.complete(prompt="Explain quantum computing", model="demo")
...     print(response.content)
"""

from __future__ import annotations

import importlib
from typing import Any

from foundry_api._version import __version__

# `__init__.pyi` names the same for type checkers; a test compares the two.
_HOMES = {
    "batch.types": (
        "BatchKeywords",
        "BatchOptions",
        "BatchRequest",
        "BatchResult",
        "InputOptions",
    ),
    "client.client": ("FoundryAPIClient",),
    "client.models": ("Models",),
    "client.responses": (
        "Conversation",
        "Responses",
    ),
    "client.sync": (
        "FoundryClient",
        "SyncCache",
        "SyncConversation",
        "SyncModels",
        "SyncResponses",
    ),
    "core.cache.base": (
        "CacheStats",
        "ResponseCache",
    ),
    "core.cache.memory": ("MemoryCache",),
    "core.cache.sqlite": ("SqliteCache",),
    "core.catalog": ("CatalogListing",),
    "core.downloads": ("DownloadProgress",),
    "core.options": (
        "ChatOptions",
        "StructuredOptions",
        "ModelOptions",
        "ResponseOptions",
        "CompletionOptions",
        "TimeOptions",
    ),
    "core.residency.policy": ("ModelResidency",),
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
    "observe.snapshot": (
        "MetricsSnapshot",
        "SeriesSnapshot",
    ),
    "resilience.breaker": (
        "BreakerSettings",
        "BreakerStatistics",
    ),
    "resilience.deadline": ("deadline",),
    "resilience.limiter": (
        "LimiterSettings",
        "LimiterStatistics",
    ),
    "tools.definition": (
        "Tool",
        "tool",
    ),
    "tools.results": (
        "ToolResult",
        "ToolRun",
    ),
    "types.capabilities": (
        "Capabilities",
        "Support",
    ),
    "types.errors": (
        "BatchCancelled",
        "BatchMismatch",
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
        "RouteNotFound",
        "ServerError",
        "ServiceCrashed",
        "ServiceError",
        "ServiceNotRunning",
        "ServiceOverloaded",
        "ServiceStartFailed",
        "ReadTimeout",
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
        "ServiceGeneration",
        "Message",
        "Model",
        "ModelUser",
        "Role",
        "Timings",
        "ToolCall",
        "ToolDefinition",
        "Usage",
    ),
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
    "wire.hooks": (
        "Auth",
        "RequestHook",
        "ResponseHook",
    ),
    "wire.transport": (
        "Request",
        "ResponseHead",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] # the table's keys
    "__version__",
    *_HOME_OF,
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
