"""The requests, results and options of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from foundry_api.core.options import StructuredOptions
from foundry_api.storage.private_file import resolve_link
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest
from foundry_api.types.local_path import absolute_path
from foundry_api.types.messages import Completion, Message
from foundry_api.types.results import Embeddings, Response
from foundry_api.types.serialization import Result, ShortResult

if TYPE_CHECKING:
    from pathlib import Path

    import typing_extensions

__all__ = [
    "CHAT_URL",
    "EMBEDDINGS_URL",
    "JOURNAL_SUFFIX",
    "RESPONSES_URL",
    "STANDARD_STREAM",
    "URLS",
    "BatchAnswer",
    "BatchItem",
    "BatchKeywords",
    "BatchLineResult",
    "BatchOptions",
    "BatchRequest",
    "BatchResult",
    "BatchUrl",
    "Failures",
    "InputOptions",
    "Line",
    "Prompt",
    "WorkItem",
    "get_journal_directory",
    "parse_route",
]

BatchUrl = Literal["/v1/chat/completions", "/v1/responses", "/v1/embeddings"]
CHAT_URL: BatchUrl = "/v1/chat/completions"
RESPONSES_URL: BatchUrl = "/v1/responses"
EMBEDDINGS_URL: BatchUrl = "/v1/embeddings"
URLS: tuple[BatchUrl, ...] = (CHAT_URL, RESPONSES_URL, EMBEDDINGS_URL)
_ROUTES: dict[str, BatchUrl] = {
    **{url: url for url in URLS},
    **{url.removeprefix("/v1"): url for url in URLS},  # Azure's batch files omit `/v1`
}

JOURNAL_SUFFIX = ".batch"  # of the directory next to the output
STANDARD_STREAM = "-"  # standard input or standard output

# The default name of the error file omits these endings of the output's name.
_OUTPUT_SUFFIXES = (".jsonl", ".json", ".parquet")

InputFormat = Literal["auto", "openai", "text", "csv", "parquet"]
Failures = Literal["results", "raise"]

# A prompt, or a conversation with the oldest message first.
Prompt = str | Sequence[Message | Mapping[str, Any]]

# The answer to a `BatchRequest`; its type depends on the request's `url`.
BatchAnswer = Completion[Any] | Response | Embeddings

_T = TypeVar("_T")
if TYPE_CHECKING:
    _A_co = typing_extensions.TypeVar("_A_co", covariant=True, default="BatchAnswer")
else:
    _A_co = TypeVar("_A_co", covariant=True)


class BatchRequest(Result, msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch, in the form of OpenAI's batch files.

    Attributes:
        custom_id: Identifies the request within its batch.
        body: The JSON body of the request, as the route takes it.
        url: The route.
        method: The HTTP method, always `POST`.
    """

    custom_id: str
    body: dict[str, Any]
    url: BatchUrl = CHAT_URL
    method: Literal["POST"] = "POST"


# One request of a program's batch.
BatchItem = Prompt | BatchRequest


class BatchResult(ShortResult, msgspec.Struct, Generic[_A_co], frozen=True, kw_only=True):
    """The result of one request of a batch.

    Attributes:
        index: Position among the requests, from 0.
        custom_id: The request's `custom_id`, or `request-INDEX` if it has none.
        request: The request, as it was passed.
        answer: The answer that a single call would return; None if the request failed.
        error: Why the request failed; None if it was answered.
        shared: Whether the answer was shared by an identical request, or came from the cache.
    """

    index: int
    custom_id: str
    request: Any
    answer: _A_co | None = None
    error: FoundryError | None = None
    shared: bool = False

    def unwrap(self) -> _A_co:
        """Return the answer, or raise the error.

        Returns:
            The answer.

        Raises:
            FoundryError: The request failed.
        """
        if self.answer is None:
            raise self.error or FoundryError(f"{self.custom_id} was not answered")
        return self.answer


class BatchKeywords(StructuredOptions[_T], Generic[_T], total=False):
    """The keyword arguments of a batch, besides those of `complete`.

    Attributes:
        system: Instructions ahead of each prompt.
        ordered: Whether to return the results in the order of the requests instead of the order in
            which they finish; default False.
        errors: `results` (default) returns a failed request as a result with an error; `raise`
            raises the first error.
        dedupe: Whether identical requests are sent once and share their answer; default False.
        max_attempts: How often a request that fails for a transient reason is attempted; default 3.
            Each attempt is a call with retries of its own.
        patience: Seconds that all services may be unreachable before the batch fails; default 600.
    """

    system: str | None
    ordered: bool
    errors: Failures
    dedupe: bool
    max_attempts: int
    patience: float


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The input of a batch over files, and how its lines become requests.

    Attributes:
        path: The file; `-` is standard input.
        format: `auto` detects it from the file's name without a compression suffix (.jsonl, .json,
            .txt, .csv, .parquet), or for pipes from the first bytes. `openai` means requests, one
            per line or in a JSON array.
        column: The column with the prompt, for CSV and Parquet; default `prompt`. Not needed with
            a template.
        template: The prompt, with `{column}` in place of each column's value; for plain text,
            `{prompt}` or `{line}` is the line.
        system: Instructions ahead of each prompt.
        model: Model of requests that name none.
        members: Default members of the JSON body, such as max_tokens; a request's own ones win.
    """

    path: str
    format: InputFormat = "auto"
    column: str | None = None
    template: str | None = None
    system: str | None = None
    model: str | None = None
    members: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a batch over files. They are stored in its journal, for `batch retry`.

    Attributes:
        input: The input.
        output: The file for the answers; `-` is standard output, without a journal.
        errors: The file for failed lines; default `NAME.errors.jsonl` next to the output.
        output_format: `auto` is Parquet if the output's name ends in .parquet, else JSON lines.
        ordered: Whether the output keeps the order of the input.
        dedupe: Whether identical requests are sent once.
        strict: Whether a single invalid line refuses the whole input.
        check: Whether to check the whole input before anything runs.
        max_attempts: How often a line that fails for a transient reason is attempted; default 3.
            Each attempt is a call with retries of its own.
        patience_s: Seconds that all services may be unreachable before the run ends; default 600.
            Nothing is lost: the same command resumes the batch.
        report: The file for an HTML report about the run; None for no report.
    """

    input: InputOptions
    output: str
    errors: str | None = None
    output_format: Literal["auto", "jsonl", "parquet"] = "auto"
    ordered: bool = False
    dedupe: bool = False
    strict: bool = False
    check: bool = True
    max_attempts: int = 3
    patience_s: float = 600.0
    report: str | None = None

    @property
    def to_stream(self) -> bool:
        """Whether the answers go to standard output."""
        return self.output == STANDARD_STREAM

    @property
    def directory(self) -> Path:
        """The directory of the journal: `NAME.batch` next to the output."""
        return get_journal_directory(self.output)

    @property
    def absolute(self) -> BatchOptions:
        """These options with absolute paths, for processes in another working directory."""
        path = self.input.path
        if path != STANDARD_STREAM:
            path = str(absolute_path(path))
        named = {name: getattr(self, name) for name in ("output", "errors", "report")}
        return msgspec.structs.replace(
            self,
            input=msgspec.structs.replace(self.input, path=path),
            **{name: str(absolute_path(path)) for name, path in named.items() if path is not None},
        )

    @property
    def output_path(self) -> Path:
        """The file for the answers. A symbolic link is followed."""
        return _resolve_output(self.output)

    @property
    def errors_path(self) -> Path:
        """The file for failed lines. A symbolic link is followed."""
        if self.errors is not None:
            return resolve_link(self.errors)
        name = output = self.output_path
        while name.suffix in _OUTPUT_SUFFIXES:
            name = name.with_suffix("")
        return resolve_link(output.with_name(f"{name.name}.errors.jsonl"))


class Line(msgspec.Struct, frozen=True):
    """One line or row of an input, before it is parsed."""

    index: int  # position among the input's requests, from 0
    number: int  # position in the file, from 1, with blank lines but without a CSV header
    # 63 bits of a hash of the content, and of the input options that apply to it. It detects an
    # input that has changed since the line was answered.
    digest: int
    raw: Any


class WorkItem(msgspec.Struct, frozen=True):
    """A valid line, for an engine to answer."""

    line: Line
    request: BatchRequest


class BatchLineResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a line that was answered, or that failed for good."""

    index: int
    digest: int
    output: bytes  # the line of the output or error file, in OpenAI's form, without a newline
    failed: bool
    at: float  # Unix time in seconds
    model: str = ""  # id of the model that answered, or the requested name
    duration_s: float = 0.0  # from the first attempt to the end, including time in the queue
    queued_s: float = 0.0  # time in the client's queue
    time_to_first_token_s: float | None = None  # None without any text
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0  # HTTP requests
    shared: bool = False  # whether the answer is that of an identical request, or from the cache
    code: str = ""  # name of the error's type


def parse_route(url: object) -> BatchUrl:
    route = _ROUTES.get(url) if isinstance(url, str) else None
    if route is None:
        raise InvalidRequest(f"url is {url!r}, but must be one of {', '.join(URLS)}", field="url")
    return route


def get_journal_directory(output: str | Path) -> Path:
    """Return the journal's directory: next to the output itself, not next to a link to it."""
    if str(output) == STANDARD_STREAM:
        raise BatchInputInvalid(
            "answers on standard output have no journal",
            field="output",
            hint="Name the output file of the batch.",
        )
    path = _resolve_output(output)
    return path.with_name(f"{path.name}{JOURNAL_SUFFIX}")


def _resolve_output(output: str | Path) -> Path:
    path = resolve_link(output)
    if not path.name:
        raise BatchInputInvalid(
            f"the output {str(output)!r} is not a file name", field="output", hint="Name a file."
        )
    return path
