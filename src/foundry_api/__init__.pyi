from foundry_api._version import __version__ as __version__
from foundry_api.batch.keywords import (
    BatchKeywords as BatchKeywords,
)
from foundry_api.batch.lines import (
    BatchRequest as BatchRequest,
)
from foundry_api.batch.options import (
    BatchOptions as BatchOptions,
)
from foundry_api.batch.options import (
    InputOptions as InputOptions,
)
from foundry_api.batch.results import (
    BatchResult as BatchResult,
)
from foundry_api.cache.memory import (
    MemoryCache as MemoryCache,
)
from foundry_api.cache.sqlite import (
    SqliteCache as SqliteCache,
)
from foundry_api.cache.store import (
    CacheStats as CacheStats,
)
from foundry_api.cache.store import (
    ResponseCache as ResponseCache,
)
from foundry_api.capabilities import (
    Capabilities as Capabilities,
)
from foundry_api.capabilities import (
    Support as Support,
)
from foundry_api.catalog import (
    CatalogListing as CatalogListing,
)
from foundry_api.client import (
    FoundryAPIClient as FoundryAPIClient,
)
from foundry_api.downloads import (
    DownloadProgress as DownloadProgress,
)
from foundry_api.endpoints.conversation import (
    Conversation as Conversation,
)
from foundry_api.endpoints.options import (
    ModelOptions as ModelOptions,
)
from foundry_api.endpoints.options import (
    ResponseOptions as ResponseOptions,
)
from foundry_api.endpoints.options import (
    TimeOptions as TimeOptions,
)
from foundry_api.endpoints.responses import (
    Responses as Responses,
)
from foundry_api.errors import (
    BatchCancelled as BatchCancelled,
)
from foundry_api.errors import (
    BatchChanged as BatchChanged,
)
from foundry_api.errors import (
    BatchError as BatchError,
)
from foundry_api.errors import (
    BatchInputInvalid as BatchInputInvalid,
)
from foundry_api.errors import (
    BatchInUse as BatchInUse,
)
from foundry_api.errors import (
    BatchStorageFailed as BatchStorageFailed,
)
from foundry_api.errors import (
    CallTimeout as CallTimeout,
)
from foundry_api.errors import (
    CatalogUnavailable as CatalogUnavailable,
)
from foundry_api.errors import (
    CircuitOpen as CircuitOpen,
)
from foundry_api.errors import (
    ClientClosed as ClientClosed,
)
from foundry_api.errors import (
    ConfigurationError as ConfigurationError,
)
from foundry_api.errors import (
    ConnectTimeout as ConnectTimeout,
)
from foundry_api.errors import (
    ContextOverflow as ContextOverflow,
)
from foundry_api.errors import (
    DeadlineExceeded as DeadlineExceeded,
)
from foundry_api.errors import (
    DownloadFailed as DownloadFailed,
)
from foundry_api.errors import (
    FoundryError as FoundryError,
)
from foundry_api.errors import (
    GrammarError as GrammarError,
)
from foundry_api.errors import (
    HookFailed as HookFailed,
)
from foundry_api.errors import (
    InvalidRequest as InvalidRequest,
)
from foundry_api.errors import (
    MemoryBudgetExceeded as MemoryBudgetExceeded,
)
from foundry_api.errors import (
    ModelError as ModelError,
)
from foundry_api.errors import (
    ModelInUse as ModelInUse,
)
from foundry_api.errors import (
    ModelLoadFailed as ModelLoadFailed,
)
from foundry_api.errors import (
    ModelNotCached as ModelNotCached,
)
from foundry_api.errors import (
    ModelNotFound as ModelNotFound,
)
from foundry_api.errors import (
    ModelNotLoaded as ModelNotLoaded,
)
from foundry_api.errors import (
    ModelRegistrationFailed as ModelRegistrationFailed,
)
from foundry_api.errors import (
    ModelTaskMismatch as ModelTaskMismatch,
)
from foundry_api.errors import (
    ProtocolError as ProtocolError,
)
from foundry_api.errors import (
    QueueFull as QueueFull,
)
from foundry_api.errors import (
    ResponseNotFound as ResponseNotFound,
)
from foundry_api.errors import (
    RouteMissing as RouteMissing,
)
from foundry_api.errors import (
    ServerError as ServerError,
)
from foundry_api.errors import (
    ServiceCrashed as ServiceCrashed,
)
from foundry_api.errors import (
    ServiceError as ServiceError,
)
from foundry_api.errors import (
    ServiceNotRunning as ServiceNotRunning,
)
from foundry_api.errors import (
    ServiceOverloaded as ServiceOverloaded,
)
from foundry_api.errors import (
    ServiceStartFailed as ServiceStartFailed,
)
from foundry_api.errors import (
    SilenceTimeout as SilenceTimeout,
)
from foundry_api.errors import (
    StreamInterrupted as StreamInterrupted,
)
from foundry_api.errors import (
    StructuredOutputError as StructuredOutputError,
)
from foundry_api.errors import (
    ToolCallError as ToolCallError,
)
from foundry_api.errors import (
    ToolDefinitionError as ToolDefinitionError,
)
from foundry_api.errors import (
    ToolError as ToolError,
)
from foundry_api.errors import (
    ToolFailed as ToolFailed,
)
from foundry_api.errors import (
    ToolMarkersMissing as ToolMarkersMissing,
)
from foundry_api.errors import (
    ToolRoundsExceeded as ToolRoundsExceeded,
)
from foundry_api.errors import (
    UnsupportedFeature as UnsupportedFeature,
)
from foundry_api.errors import (
    UnsupportedParameter as UnsupportedParameter,
)
from foundry_api.events import (
    AttemptStarted as AttemptStarted,
)
from foundry_api.events import (
    BreakerChanged as BreakerChanged,
)
from foundry_api.events import (
    CacheHit as CacheHit,
)
from foundry_api.events import (
    CacheMiss as CacheMiss,
)
from foundry_api.events import (
    CacheStored as CacheStored,
)
from foundry_api.events import (
    CacheTrouble as CacheTrouble,
)
from foundry_api.events import (
    CallEnded as CallEnded,
)
from foundry_api.events import (
    CallStarted as CallStarted,
)
from foundry_api.events import (
    Event as Event,
)
from foundry_api.events import (
    FirstToken as FirstToken,
)
from foundry_api.events import (
    ModelLoaded as ModelLoaded,
)
from foundry_api.events import (
    ModelUnloaded as ModelUnloaded,
)
from foundry_api.events import (
    RetryScheduled as RetryScheduled,
)
from foundry_api.health import (
    HealthStatus as HealthStatus,
)
from foundry_api.health_monitor import (
    AlertCommand as AlertCommand,
)
from foundry_api.health_monitor import (
    AlertWebhook as AlertWebhook,
)
from foundry_api.health_monitor import (
    Canary as Canary,
)
from foundry_api.health_monitor import (
    HealthChanged as HealthChanged,
)
from foundry_api.health_monitor import (
    HealthMonitor as HealthMonitor,
)
from foundry_api.health_monitor import (
    HealthSample as HealthSample,
)
from foundry_api.health_monitor import (
    HealthSummary as HealthSummary,
)
from foundry_api.health_monitor import (
    Hysteresis as Hysteresis,
)
from foundry_api.health_monitor import (
    Traffic as Traffic,
)
from foundry_api.messages import (
    Attempt as Attempt,
)
from foundry_api.messages import (
    Chunk as Chunk,
)
from foundry_api.messages import (
    Completion as Completion,
)
from foundry_api.messages import (
    FinishReason as FinishReason,
)
from foundry_api.messages import (
    FunctionCall as FunctionCall,
)
from foundry_api.messages import (
    Generation as Generation,
)
from foundry_api.messages import (
    Message as Message,
)
from foundry_api.messages import (
    Model as Model,
)
from foundry_api.messages import (
    ModelUser as ModelUser,
)
from foundry_api.messages import (
    Role as Role,
)
from foundry_api.messages import (
    Timings as Timings,
)
from foundry_api.messages import (
    ToolCall as ToolCall,
)
from foundry_api.messages import (
    ToolDefinition as ToolDefinition,
)
from foundry_api.messages import (
    Usage as Usage,
)
from foundry_api.models import (
    Models as Models,
)
from foundry_api.observe.call_log import (
    CallLog as CallLog,
)
from foundry_api.observe.metrics import (
    Metrics as Metrics,
)
from foundry_api.observe.metrics import (
    MetricsSnapshot as MetricsSnapshot,
)
from foundry_api.observe.metrics import (
    SeriesSnapshot as SeriesSnapshot,
)
from foundry_api.options import (
    ChatOptions as ChatOptions,
)
from foundry_api.options import (
    CheckedOptions as CheckedOptions,
)
from foundry_api.options import (
    RunOptions as RunOptions,
)
from foundry_api.replies.embeddings import (
    Embeddings as Embeddings,
)
from foundry_api.replies.raw import (
    RawReply as RawReply,
)
from foundry_api.replies.responses import (
    Response as Response,
)
from foundry_api.replies.responses import (
    ResponseEvent as ResponseEvent,
)
from foundry_api.replies.responses import (
    ResponseItem as ResponseItem,
)
from foundry_api.replies.responses import (
    ResponsePage as ResponsePage,
)
from foundry_api.replies.transcription import (
    Transcription as Transcription,
)
from foundry_api.replies.transcription import (
    TranscriptionChunk as TranscriptionChunk,
)
from foundry_api.residency.policy import (
    ModelResidency as ModelResidency,
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
from foundry_api.resilience.window import (
    BreakerSettings as BreakerSettings,
)
from foundry_api.resilience.window import (
    BreakerStatistics as BreakerStatistics,
)
from foundry_api.settings import (
    Settings as Settings,
)
from foundry_api.sync import (
    FoundryClient as FoundryClient,
)
from foundry_api.sync import (
    SyncCache as SyncCache,
)
from foundry_api.sync import (
    SyncConversation as SyncConversation,
)
from foundry_api.sync import (
    SyncModels as SyncModels,
)
from foundry_api.sync import (
    SyncResponses as SyncResponses,
)
from foundry_api.tools.definition import (
    Tool as Tool,
)
from foundry_api.tools.definition import (
    tool as tool,
)
from foundry_api.tools.outcome import (
    ToolResult as ToolResult,
)
from foundry_api.tools.outcome import (
    ToolRun as ToolRun,
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
