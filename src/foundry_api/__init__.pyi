from foundry_api._version import __version__ as __version__
from foundry_api.batch.types import (
    BatchKeywords as BatchKeywords,
)
from foundry_api.batch.types import (
    BatchOptions as BatchOptions,
)
from foundry_api.batch.types import (
    BatchRequest as BatchRequest,
)
from foundry_api.batch.types import (
    BatchResult as BatchResult,
)
from foundry_api.batch.types import (
    InputOptions as InputOptions,
)
from foundry_api.client.client import (
    FoundryAPIClient as FoundryAPIClient,
)
from foundry_api.client.models import (
    Models as Models,
)
from foundry_api.client.responses import (
    Conversation as Conversation,
)
from foundry_api.client.responses import (
    Responses as Responses,
)
from foundry_api.client.sync import (
    FoundryClient as FoundryClient,
)
from foundry_api.client.sync import (
    SyncCache as SyncCache,
)
from foundry_api.client.sync import (
    SyncConversation as SyncConversation,
)
from foundry_api.client.sync import (
    SyncModels as SyncModels,
)
from foundry_api.client.sync import (
    SyncResponses as SyncResponses,
)
from foundry_api.core.cache.base import (
    CacheStats as CacheStats,
)
from foundry_api.core.cache.base import (
    ResponseCache as ResponseCache,
)
from foundry_api.core.cache.memory import (
    MemoryCache as MemoryCache,
)
from foundry_api.core.cache.sqlite import (
    SqliteCache as SqliteCache,
)
from foundry_api.core.catalog import (
    CatalogListing as CatalogListing,
)
from foundry_api.core.downloads import (
    DownloadProgress as DownloadProgress,
)
from foundry_api.core.options import (
    ChatOptions as ChatOptions,
)
from foundry_api.core.options import (
    CompletionOptions as CompletionOptions,
)
from foundry_api.core.options import (
    ModelOptions as ModelOptions,
)
from foundry_api.core.options import (
    ResponseOptions as ResponseOptions,
)
from foundry_api.core.options import (
    StructuredOptions as StructuredOptions,
)
from foundry_api.core.options import (
    TimeOptions as TimeOptions,
)
from foundry_api.core.residency.policy import (
    ModelResidency as ModelResidency,
)
from foundry_api.monitor.health import (
    HealthStatus as HealthStatus,
)
from foundry_api.monitor.monitor import (
    AlertCommand as AlertCommand,
)
from foundry_api.monitor.monitor import (
    AlertWebhook as AlertWebhook,
)
from foundry_api.monitor.monitor import (
    Canary as Canary,
)
from foundry_api.monitor.monitor import (
    HealthChanged as HealthChanged,
)
from foundry_api.monitor.monitor import (
    HealthMonitor as HealthMonitor,
)
from foundry_api.monitor.monitor import (
    HealthSample as HealthSample,
)
from foundry_api.monitor.monitor import (
    HealthSummary as HealthSummary,
)
from foundry_api.monitor.monitor import (
    Hysteresis as Hysteresis,
)
from foundry_api.monitor.monitor import (
    Traffic as Traffic,
)
from foundry_api.observe.call_log import (
    CallLog as CallLog,
)
from foundry_api.observe.metrics import (
    Metrics as Metrics,
)
from foundry_api.observe.snapshot import (
    MetricsSnapshot as MetricsSnapshot,
)
from foundry_api.observe.snapshot import (
    SeriesSnapshot as SeriesSnapshot,
)
from foundry_api.resilience.breaker import (
    BreakerSettings as BreakerSettings,
)
from foundry_api.resilience.breaker import (
    BreakerStatistics as BreakerStatistics,
)
from foundry_api.resilience.deadline import (
    deadline as deadline,
)
from foundry_api.resilience.limiter import (
    LimiterSettings as LimiterSettings,
)
from foundry_api.resilience.limiter import (
    LimiterStatistics as LimiterStatistics,
)
from foundry_api.tools.definition import (
    Tool as Tool,
)
from foundry_api.tools.definition import (
    tool as tool,
)
from foundry_api.tools.results import (
    ToolResult as ToolResult,
)
from foundry_api.tools.results import (
    ToolRun as ToolRun,
)
from foundry_api.types.capabilities import (
    Capabilities as Capabilities,
)
from foundry_api.types.capabilities import (
    Support as Support,
)
from foundry_api.types.errors import (
    BatchCancelled as BatchCancelled,
)
from foundry_api.types.errors import (
    BatchError as BatchError,
)
from foundry_api.types.errors import (
    BatchInputInvalid as BatchInputInvalid,
)
from foundry_api.types.errors import (
    BatchInUse as BatchInUse,
)
from foundry_api.types.errors import (
    BatchMismatch as BatchMismatch,
)
from foundry_api.types.errors import (
    BatchStorageFailed as BatchStorageFailed,
)
from foundry_api.types.errors import (
    CallTimeout as CallTimeout,
)
from foundry_api.types.errors import (
    CatalogUnavailable as CatalogUnavailable,
)
from foundry_api.types.errors import (
    CircuitOpen as CircuitOpen,
)
from foundry_api.types.errors import (
    ClientClosed as ClientClosed,
)
from foundry_api.types.errors import (
    ConfigurationError as ConfigurationError,
)
from foundry_api.types.errors import (
    ConnectTimeout as ConnectTimeout,
)
from foundry_api.types.errors import (
    ContextOverflow as ContextOverflow,
)
from foundry_api.types.errors import (
    DeadlineExceeded as DeadlineExceeded,
)
from foundry_api.types.errors import (
    DownloadFailed as DownloadFailed,
)
from foundry_api.types.errors import (
    FoundryError as FoundryError,
)
from foundry_api.types.errors import (
    GrammarError as GrammarError,
)
from foundry_api.types.errors import (
    HookFailed as HookFailed,
)
from foundry_api.types.errors import (
    InvalidRequest as InvalidRequest,
)
from foundry_api.types.errors import (
    MemoryBudgetExceeded as MemoryBudgetExceeded,
)
from foundry_api.types.errors import (
    ModelError as ModelError,
)
from foundry_api.types.errors import (
    ModelInUse as ModelInUse,
)
from foundry_api.types.errors import (
    ModelLoadFailed as ModelLoadFailed,
)
from foundry_api.types.errors import (
    ModelNotCached as ModelNotCached,
)
from foundry_api.types.errors import (
    ModelNotFound as ModelNotFound,
)
from foundry_api.types.errors import (
    ModelNotLoaded as ModelNotLoaded,
)
from foundry_api.types.errors import (
    ModelRegistrationFailed as ModelRegistrationFailed,
)
from foundry_api.types.errors import (
    ModelTaskMismatch as ModelTaskMismatch,
)
from foundry_api.types.errors import (
    ProtocolError as ProtocolError,
)
from foundry_api.types.errors import (
    QueueFull as QueueFull,
)
from foundry_api.types.errors import (
    ReadTimeout as ReadTimeout,
)
from foundry_api.types.errors import (
    ResponseNotFound as ResponseNotFound,
)
from foundry_api.types.errors import (
    RouteNotFound as RouteNotFound,
)
from foundry_api.types.errors import (
    ServerError as ServerError,
)
from foundry_api.types.errors import (
    ServiceCrashed as ServiceCrashed,
)
from foundry_api.types.errors import (
    ServiceError as ServiceError,
)
from foundry_api.types.errors import (
    ServiceNotRunning as ServiceNotRunning,
)
from foundry_api.types.errors import (
    ServiceOverloaded as ServiceOverloaded,
)
from foundry_api.types.errors import (
    ServiceStartFailed as ServiceStartFailed,
)
from foundry_api.types.errors import (
    StreamInterrupted as StreamInterrupted,
)
from foundry_api.types.errors import (
    StructuredOutputError as StructuredOutputError,
)
from foundry_api.types.errors import (
    ToolCallError as ToolCallError,
)
from foundry_api.types.errors import (
    ToolDefinitionError as ToolDefinitionError,
)
from foundry_api.types.errors import (
    ToolError as ToolError,
)
from foundry_api.types.errors import (
    ToolFailed as ToolFailed,
)
from foundry_api.types.errors import (
    ToolMarkersMissing as ToolMarkersMissing,
)
from foundry_api.types.errors import (
    ToolRoundsExceeded as ToolRoundsExceeded,
)
from foundry_api.types.errors import (
    UnsupportedFeature as UnsupportedFeature,
)
from foundry_api.types.errors import (
    UnsupportedParameter as UnsupportedParameter,
)
from foundry_api.types.events import (
    AttemptStarted as AttemptStarted,
)
from foundry_api.types.events import (
    BreakerChanged as BreakerChanged,
)
from foundry_api.types.events import (
    CacheHit as CacheHit,
)
from foundry_api.types.events import (
    CacheMiss as CacheMiss,
)
from foundry_api.types.events import (
    CacheStored as CacheStored,
)
from foundry_api.types.events import (
    CacheTrouble as CacheTrouble,
)
from foundry_api.types.events import (
    CallEnded as CallEnded,
)
from foundry_api.types.events import (
    CallStarted as CallStarted,
)
from foundry_api.types.events import (
    Event as Event,
)
from foundry_api.types.events import (
    FirstToken as FirstToken,
)
from foundry_api.types.events import (
    ModelLoaded as ModelLoaded,
)
from foundry_api.types.events import (
    ModelUnloaded as ModelUnloaded,
)
from foundry_api.types.events import (
    RetryScheduled as RetryScheduled,
)
from foundry_api.types.messages import (
    AttemptRecord as AttemptRecord,
)
from foundry_api.types.messages import (
    Chunk as Chunk,
)
from foundry_api.types.messages import (
    Completion as Completion,
)
from foundry_api.types.messages import (
    FinishReason as FinishReason,
)
from foundry_api.types.messages import (
    FunctionCall as FunctionCall,
)
from foundry_api.types.messages import (
    Message as Message,
)
from foundry_api.types.messages import (
    Model as Model,
)
from foundry_api.types.messages import (
    ModelUser as ModelUser,
)
from foundry_api.types.messages import (
    Role as Role,
)
from foundry_api.types.messages import (
    ServiceGeneration as ServiceGeneration,
)
from foundry_api.types.messages import (
    Timings as Timings,
)
from foundry_api.types.messages import (
    ToolCall as ToolCall,
)
from foundry_api.types.messages import (
    ToolDefinition as ToolDefinition,
)
from foundry_api.types.messages import (
    Usage as Usage,
)
from foundry_api.types.results import (
    Embeddings as Embeddings,
)
from foundry_api.types.results import (
    RawResponse as RawResponse,
)
from foundry_api.types.results import (
    Response as Response,
)
from foundry_api.types.results import (
    ResponseEvent as ResponseEvent,
)
from foundry_api.types.results import (
    ResponseItem as ResponseItem,
)
from foundry_api.types.results import (
    ResponsePage as ResponsePage,
)
from foundry_api.types.results import (
    Transcription as Transcription,
)
from foundry_api.types.results import (
    TranscriptionChunk as TranscriptionChunk,
)
from foundry_api.types.settings import (
    Settings as Settings,
)
from foundry_api.wire.hooks import (
    Auth as Auth,
)
from foundry_api.wire.hooks import (
    RequestHook as RequestHook,
)
from foundry_api.wire.hooks import (
    ResponseHook as ResponseHook,
)
from foundry_api.wire.transport import (
    Request as Request,
)
from foundry_api.wire.transport import (
    ResponseHead as ResponseHead,
)
