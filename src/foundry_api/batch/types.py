"""What a batch over files is told: what to read, how to ask, where to write."""

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
    **{url.removeprefix("/v1"): url for url in URLS},
}


def parse_route(url: object) -> BatchUrl:
    """The route that a request names. Azure's batch files leave `/v1` out.

    Raises:
        InvalidRequest: There is no such route.
    """
    route = _ROUTES.get(url) if isinstance(url, str) else None
    if route is None:
        raise InvalidRequest(f"url is {url!r}, but must be one of {', '.join(URLS)}", field="url")
    return route


class BatchRequest(Result, msgspec.Struct, frozen=True, kw_only=True):
    """One request of a batch, in the form of OpenAI's batch files.

    Attributes:
        custom_id: Names it; no other request of the batch has the same.
        body: What is asked, as the route takes it.
        url: The route.
        method: That of HTTP; there is one.
    """

    custom_id: str
    body: dict[str, Any]
    url: BatchUrl = CHAT_URL
    method: Literal["POST"] = "POST"


class Line(msgspec.Struct, frozen=True):
    """One line or row of an input as it was read, before it is understood.

    Attributes:
        index: Its place among the input's requests, from 0.
        number: Its place in the file as people count it, from 1: of lines, blank ones included;
            of rows, without the header.
        digest: Of its content, and of what the input's options make of it: 63 bits. Another
            content has another one.
        raw: What was read.
    """

    index: int
    number: int
    digest: int
    raw: Any


class WorkItem(msgspec.Struct, frozen=True):
    """A line that is understood, for an engine to answer."""

    line: Line
    request: BatchRequest


class BatchLineResult(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is answered, or failed for good.

    Attributes:
        index: The line's.
        digest: The line's.
        output: The line of the output or error file: OpenAI's form, without an end of line.
        failed: Whether it belongs into the error file.
        at: When, in seconds since the epoch.
        model: The id of the model that answered, or the name that was asked for.
        duration_s: From its first attempt to its end, queueing in the client included.
        queued_s: Of that, waiting for its turn in the client.
        time_to_first_token_s: None without any text.
        prompt_tokens: As the service counted them.
        completion_tokens: As the service counted them.
        attempts: HTTP requests made for it.
        shared: Whether it took the answer of an identical request, or one from the cache.
        code: Of a failed one, the name of the error's type.
    """

    index: int
    digest: int
    output: bytes
    failed: bool
    at: float
    model: str = ""
    duration_s: float = 0.0
    queued_s: float = 0.0
    time_to_first_token_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    shared: bool = False
    code: str = ""


if TYPE_CHECKING:
    _A_co = typing_extensions.TypeVar("_A_co", covariant=True, default="BatchAnswer")
else:
    _A_co = TypeVar("_A_co", covariant=True)


Prompt = str | Sequence[Message | Mapping[str, Any]]
"""A prompt, or a conversation: its turns, oldest first."""

BatchItem = Prompt | BatchRequest
"""What a batch may be made of."""

BatchAnswer = Completion[Any] | Response | Embeddings
"""What a `BatchRequest` is answered with; its `url` says which."""


class BatchResult(ShortResult, msgspec.Struct, Generic[_A_co], frozen=True, kw_only=True):
    """What became of one request of a batch.

    Attributes:
        index: Its place among the requests, from 0.
        custom_id: Its own name, or `request-INDEX` where it has none.
        request: The request, as it was given.
        answer: As a single call gives it; None if it failed.
        error: Why it failed for good; None if it was answered.
        shared: Whether it took the answer of an identical request, or one from the cache.
    """

    index: int
    custom_id: str
    request: Any
    answer: _A_co | None = None
    error: FoundryError | None = None
    shared: bool = False

    def unwrap(self) -> _A_co:
        """The answer.

        Raises:
            FoundryError: Why there is none.
        """
        if self.answer is None:
            raise self.error or FoundryError(f"{self.custom_id} was not answered")
        return self.answer


STANDARD_STREAM = "-"
"""Stands for standard input, and for standard output."""

SUFFIXES = (".jsonl", ".json", ".parquet")
"""What the error file leaves out of the output's name."""


def get_journal_directory(output: str | Path) -> Path:
    """Where the journal of the batch with that output lies: beside the file itself, not a link."""
    if str(output) == STANDARD_STREAM:
        raise BatchInputInvalid(
            "answers on standard output have no journal",
            field="output",
            hint="Name the file that the answers of the batch go to.",
        )
    path = _get_file(output)
    return path.with_name(f"{path.name}.batch")


def _get_file(output: str | Path) -> Path:
    path = resolve_link(output)
    if not path.name:
        raise BatchInputInvalid(
            f"the output {str(output)!r} is no name of a file", field="output", hint="Name a file."
        )
    return path


InputFormat = Literal["auto", "openai", "text", "csv", "parquet"]


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is read, and how a line becomes a request.

    Attributes:
        path: The file; `-` is standard input.
        format: `auto` goes by the file's name, compression aside (.jsonl, .json, .txt, .csv,
            .parquet), and where it has none, as pipes, by how it begins. `openai` is requests, on
            lines or in a JSON array.
        column: Of CSV and Parquet, the column with the prompt; default `prompt`. With a template
            none is needed.
        template: The prompt, with `{column}` for each column's value; of plain text the line is
            `{prompt}`, or `{line}`.
        system: Instructions ahead of each prompt.
        model: Model of requests that name none.
        members: Members of the JSON body of requests that do not have them, such as max_tokens.
    """

    path: str
    format: InputFormat = "auto"
    column: str | None = None
    template: str | None = None
    system: str | None = None
    model: str | None = None
    members: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class BatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A batch over files. The journal keeps it, so that `batch retry` need not be told again.

    Attributes:
        input: What is read.
        output: Where the answers go; `-` is standard output, without a journal.
        errors: Where the lines go that failed; default beside the output, as `NAME.errors.jsonl`.
        output_format: `auto` goes by the output's name.
        ordered: Whether the output keeps the order of the input.
        dedupe: Whether identical requests run once.
        strict: Whether one bad line refuses the whole input.
        check: Whether the whole input is checked before anything runs.
        max_attempts: How often a line that failed for a passing reason is begun before it counts as
            failed; default 3. Each of them is a call with retries of its own.
        patience_s: Seconds that all services may be away before the run is given up; default 600.
            Nothing is lost by that: the same command goes on.
        report: Where to write a page about the run; None for none.
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
        """Where the journal lies: beside the output, as `NAME.batch`."""
        return get_journal_directory(self.output)

    @property
    def absolute(self) -> BatchOptions:
        """These options for a process in another directory, such as that of `batch retry`."""
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
        """Where the answers go. A symbolic link is followed."""
        return _get_file(self.output)

    @property
    def errors_path(self) -> Path:
        """Where the lines go that failed. A symbolic link is followed."""
        if self.errors is not None:
            return resolve_link(self.errors)
        name = output = self.output_path
        while name.suffix in SUFFIXES:
            name = name.with_suffix("")
        return resolve_link(output.with_name(f"{name.name}.errors.jsonl"))


_T = TypeVar("_T")

Failures = Literal["results", "raise"]


class BatchKeywords(StructuredOptions[_T], Generic[_T], total=False):
    """What a batch takes besides its requests and what their answers have to be.

    Attributes:
        system: Instructions ahead of each prompt.
        ordered: Whether the results keep the order of the requests, instead of coming as they
            finish; default False.
        errors: `results` (default) gives a request that failed as a result with an error, `raise`
            raises the first such error.
        dedupe: Whether identical requests are made once, and share their answer; default False.
        max_attempts: How often a request that fails for a passing reason is tried; default 3. Each
            try is a call with retries of its own.
        patience: Seconds that all services may be away before the batch is given up; default 600.
    """

    system: str | None
    ordered: bool
    errors: Failures
    dedupe: bool
    max_attempts: int
    patience: float
