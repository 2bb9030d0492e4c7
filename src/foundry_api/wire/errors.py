"""Turns error responses and error events of the services into typed errors."""

from __future__ import annotations

import json
import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.types.access_errors import AuthenticationFailed, PermissionDenied
from foundry_api.types.errors import (
    CatalogUnavailable,
    ConfigurationError,
    ContextOverflow,
    FoundryError,
    GrammarError,
    InvalidRequest,
    ModelInUse,
    ModelLoadFailed,
    ModelNotCached,
    ModelNotFound,
    ModelNotLoaded,
    ModelTaskMismatch,
    ProtocolError,
    ResponseNotFound,
    RouteNotFound,
    ServerError,
    ServiceOverloaded,
    ToolCallError,
    ToolMarkersMissing,
    UnsupportedParameter,
)
from foundry_api.types.values import is_list, is_object
from foundry_api.wire.error_codes import get_error_class, set_field

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NOT_JSON",
    "classify",
    "classify_error_object",
    "clean_message",
    "decode_lenient_json",
    "extract_error_message",
    "parse_retry_after",
    "parse_stream_error",
]

# A longer text is not a message. It is cut before any pattern searches it.
MAX_MESSAGE_CHARS = 2000

# How deep an error message is searched for in nested JSON, and in how many items of a list.
MAX_DEPTH: Final = 6

# What msgspec raises for bytes that are not JSON, or JSON of another type than expected.
NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SOURCE_LOCATION = re.compile(r"(?<![\w./\\-])[\w./\\-]+\.(?:cc|cpp|h|hpp):\d+ ")
# On Windows, the name of the function alone: ``fl::`anonymous-namespace'::Fail``. GCC writes the
# whole signature, which may begin with a type of the same form and goes on with `fl::name(`.
_MSVC_NAME = re.compile(
    r"fl::(?:(?:~?\w+|`[^`']{1,60}'|<lambda_\d+>)::)*(?:operator ?\(\)|~?\w+) "
    r"(?!(?:[\w{}]+::)+~?\w+\()"
)
_LAMBDA = re.compile(r"(?: const)?::<lambda\([^()<>]{0,200}\)>")

# SDK 1.x puts the name of its handler before a message, and .NET the name of an argument after it.
_WRAPPER = re.compile(r"^Failed to handle OpenAI completion: |\s*\(Parameter '\w+'\)$")

# The engine's grammar parser appends pages of its internal state.
_PARSER_STATE = "\n<state>"

# How SDK 2.2.1 reports tool calls whose format or arguments are not what it requires.
_TOOL_CALL = (
    r"^(inference failed: )?(model emitted an? (malformed|invalid) tool call"
    r"|model emitted unframed|tool '[^']*': instance |incomplete tool-call"
    r"|tool call batch: )"
)

# Messages of all service generations. The first match counts.
_RULES: tuple[tuple[str, type[FoundryError]], ...] = (
    (r"local model registration index", ConfigurationError),
    (r"session\(s\) still using", ModelInUse),
    (r"previous response not found|the response '[^']*' does not exist", ResponseNotFound),
    (r"input is not supported by model task|does not support audio", ModelTaskMismatch),
    (r"requires a multimodal model", ModelTaskMismatch),
    (r"'hidden_states' was not found|audio_features must be provided", ModelTaskMismatch),
    (r"^empty chat template", ModelTaskMismatch),  # a chat with a model for embeddings
    (r"\[audiodecoder\]|image_url local file not found|audio file not found", InvalidRequest),
    (r"must be downloaded|not cached|no openaiservice provider", ModelNotCached),
    (r"must be loaded|is not loaded|not loaded:", ModelNotLoaded),
    (r"load failed:", ModelLoadFailed),
    (r"maximum context length|exceeds max length", ContextOverflow),
    (r"cannot be greater than model context_length", ContextOverflow),  # of a text to embed
    (r"available context size|context size has been exceeded", ContextOverflow),  # llama.cpp
    # llama-cpp-python's server, which answers 500 to all of these.
    (r"should be 'text' or 'json_object'", UnsupportedParameter),
    (r"must be created with embedding=True", ModelTaskMismatch),
    (r"^\[\{'type': '\w+', 'loc': \('body'", InvalidRequest),
    (_TOOL_CALL, ToolCallError),
    (r"model-published .*(markers|tokens)|unknown special token[^?]*toolcall", ToolMarkersMissing),
    # Ollama, llama.cpp, vLLM: what the model or the options of the server lack for tools.
    (r"does not support tools|requires --jinja|requires --enable-auto-tool", ToolMarkersMissing),
    (r"error (creating grammar|committing tokens)|invalid grammar", GrammarError),
    (r"unsupported parameter", UnsupportedParameter),
    (r"no model matching|does not exist|model not found", ModelNotFound),
    (r"model ([\"'`])[^\"'`]{1,300}\1 not found", ModelNotFound),  # Ollama, LM Studio
    (
        r"catalog request failed|failed to retrieve model list|no models were returned",
        CatalogUnavailable,
    ),
    (r"invalid (openai )?(json )?request|invalid json", InvalidRequest),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), error) for pattern, error in _RULES)

_REGISTRATIONS_HINT = (
    "The engine's list of registered models, foundry.local.modelinfo.json, is damaged. Move it away"
    " (`foundry-api doctor` says where it is), end a shared engine with `foundry-api down`, and"
    " register your models again with `foundry-api models register`."
)

_SAMPLE_RATE_HINT = (
    "The recording has fewer samples per second than the model needs. Convert it: "
    "ffmpeg -i FILE -ar 16000 talk.wav"
)

# What to do when a model cannot be loaded, by patterns in the messages of SDK 2.2.1.
_LOAD_HINTS = {
    r"unsupported tokenizer class": (
        "The engine cannot read the tokenizer_class of tokenizer_config.json; use a model with one "
        "that it reads, such as PreTrainedTokenizerFast."
    ),
    r"unsupported model_type": (
        "The engine does not know the model.type of genai_config.json; use a newer Foundry Local, "
        "or another model."
    ),
    r"executionprovider": (
        "The model is made for a device that the engine does not serve; use its CPU variant."
    ),
    r"bad[_ ]alloc|out of memory|failed to allocate|not enough memory": (
        "Free memory: unload other models, or use a smaller one."
    ),
}

# A context overflow reported by SDK 1.x and 2.2.1, and by ONNX Runtime GenAI for a prompt that
# exceeds the context without any output.
_BUDGET = re.compile(
    r"\((?P<prompt>\d{1,9}) input \+ (?P<output>\d{1,9}) output\).*?length of (?P<context>\d{1,9})"
)
_PROMPT = re.compile(
    r"input_ids size \((?P<prompt>\d{1,9})\).*?exceeds max length \((?P<context>\d{1,9})\)"
)
# The same reported by vLLM, in two versions, and by llama.cpp, where the prompt alone is too long.
_VLLM_BUDGET = re.compile(
    r"length is (?P<context>\d{1,9}) tokens.{1,80}?\((?P<prompt>\d{1,9}) in the messages, "
    r"(?P<output>\d{1,9}) in the completion\)"
)
_VLLM_INPUT = re.compile(
    r"length is (?P<context>\d{1,9}) tokens and your request has (?P<prompt>\d{1,9}) input tokens"
)
_LLAMA_PROMPT = re.compile(
    r"request \((?P<prompt>\d{1,9}) tokens\).{1,80}?context size \((?P<context>\d{1,9}) tokens\)"
)
# A gateway about `ContextOverflow.blame_prompt` of its client.
_BLAMED_PROMPT = re.compile(
    r"length is (?P<context>\d{1,9}) tokens\. However, the prompt has (?P<prompt>\d{1,9}) tokens"
)

_CONTEXT_COUNTS = (
    _BUDGET,
    _PROMPT,
    _VLLM_BUDGET,
    _VLLM_INPUT,
    _LLAMA_PROMPT,
    _BLAMED_PROMPT,
)

# Members that may hold the message, and those that mark an object without an answer as an error.
_MESSAGE_KEYS: Final = ("message", "error", "detail", "msg", "errors", "title", "error_message")
_ERROR_KEYS: Final = ("message", "detail", "errors", "error_message")

# The type that Foundry Local gives to its own failures, after which a retry may succeed.
_SERVER_ERROR_TYPE: Final = "server_error"

# Parts of the error types that proxies and other services use.
_CALLER_ERROR_WORDS: Final = (
    "invalid",
    "badrequest",
    "bad_request",
    "notfound",
    "not_found",
    "auth",
)
_OVERLOAD_WORDS: Final = ("rate_limit", "ratelimit", "overloaded", "too_many")

_NO_MEMBERS: Final[dict[str, Any]] = {}


def classify(status: int, message: str) -> FoundryError:
    """Return the typed error for a response status and the service's message."""
    # The message takes precedence over the status: SDK 1.x answers 500 to malformed JSON and 2.0.1
    # answers 500 to a context overflow. Both are mistakes of the caller, and must not be retried.
    text = clean_message(message) or f"the service answered HTTP {status} without a message"
    kind = next((error for pattern, error in _COMPILED if pattern.search(text)), None)
    if kind is ContextOverflow:
        return _make_context_overflow(text, status)
    if kind is ConfigurationError:
        return ConfigurationError(text, status=status, hint=_REGISTRATIONS_HINT)
    if kind is ModelLoadFailed:
        hints = (
            hint for words, hint in _LOAD_HINTS.items() if re.search(words, text, re.IGNORECASE)
        )
        return ModelLoadFailed(text, status=status, hint=next(hints, None))
    if kind is InvalidRequest and "only down-sampling supported" in text:
        return InvalidRequest(text, status=status, field="audio", hint=_SAMPLE_RATE_HINT)
    return (kind or _classify_by_status(status))(text, status=status)


def classify_error_object(status: int, error: Mapping[str, Any]) -> FoundryError:
    """Return the typed error for the status and the error object of a response.

    A code that is known says more than the message.
    """
    message = extract_error_message(error)
    text = clean_message(message) or f"the service answered HTTP {status} without a message"
    kind = get_error_class(error)
    if kind is None:
        failure = classify(status, message)
    elif kind is ContextOverflow:
        failure = _make_context_overflow(text, status)
    else:
        failure = kind(text, status=status)
    set_field(failure, error)
    return failure


def _classify_by_status(status: int) -> type[FoundryError]:
    if status == 401:  # noqa: PLR2004 - HTTP statuses are their own names
        return AuthenticationFailed
    if status == 403:  # noqa: PLR2004
        return PermissionDenied
    if status in {404, 405}:
        return RouteNotFound
    if status < 400:  # noqa: PLR2004 - HTTP's classes
        return ProtocolError
    if status in {429, 503}:
        return ServiceOverloaded
    if status == 408:  # noqa: PLR2004 - the service stopped waiting for the request
        return ServerError
    return InvalidRequest if status < 500 else ServerError  # noqa: PLR2004 - as above


def _make_context_overflow(text: str, status: int) -> ContextOverflow:
    match = next(filter(None, (pattern.search(text) for pattern in _CONTEXT_COUNTS)), None)
    counts = {name: int(count) for name, count in match.groupdict().items()} if match else {}
    return ContextOverflow(
        text,
        status=status,
        prompt_tokens=counts.get("prompt"),
        max_tokens=counts.get("output"),
        context_length=counts.get("context"),
    )


def clean_message(message: str) -> str:
    """Return a service's message without references to its source code."""
    # SDK 2.x writes `search_options.cc:108 int fl::Validate(const std::string&) request ...`, on
    # Windows `search_options.cc:108 fl::Validate request ...`. Only the text after the signature
    # means anything to users.
    message = message[:MAX_MESSAGE_CHARS].partition(_PARSER_STATE)[0]
    while place := _SOURCE_LOCATION.search(message):
        end = _find_signature_end(message, place.end())
        if not message[end:].strip():
            end = place.end()  # the parentheses belong to the message
        message = message[: place.start()] + message[end:].lstrip()
    return _WRAPPER.sub("", message.strip()).rstrip(".")


def _find_signature_end(text: str, start: int) -> int:
    """Return the index after the signature of a function, or `start` if there is none.

    A signature ends with its first balanced parentheses.
    """
    if name := _MSVC_NAME.match(text, start):
        return name.end()
    depth = 0
    for index in range(start, len(text)):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
            # `(anonymous namespace)::f(int)` and `operator()(int)` continue after the first pair.
            if depth == 0 and not text.startswith((":", "("), index + 1):
                end = index + 1
                if inner := _LAMBDA.match(text, end):
                    return inner.end()
                return end + len(" const") if text.startswith(" const ", end) else end
    return start


def parse_retry_after(
    headers: Mapping[str, str], current_time: float | None = None
) -> float | None:
    """Return the seconds to wait before a retry, or None if the headers do not say.

    `current_time` is in seconds since the epoch; None means now.
    """
    # Azure's gateways send milliseconds, which are more precise than the standard header.
    milliseconds = _parse_number(headers.get("Retry-After-Ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    header = headers.get("Retry-After", "")
    seconds = _parse_number(header)
    if seconds is not None:
        return seconds
    try:
        timestamp = parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError, OSError):  # no date, or one outside the platform's range
        return None
    return max(0.0, timestamp - (time.time() if current_time is None else current_time))


def _parse_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def extract_error_message(value: object, depth: int = MAX_DEPTH) -> str:
    """Return the message in an error of any known shape; empty if there is none."""
    if isinstance(value, str):
        return value.strip()
    if not depth:
        return ""
    if is_list(value):
        messages = (extract_error_message(item, depth - 1) for item in value[:depth])
        return "; ".join(message for message in messages if message)
    if is_object(value):
        for name in _MESSAGE_KEYS:
            if message := extract_error_message(value.get(name), depth - 1):
                return message
    return ""


def decode_lenient_json(data: bytes) -> Any:
    """Decode JSON that may contain NaN, lone surrogates or invalid UTF-8; ValueError if it fails.

    Python's own encoder writes the first two.
    """
    text = data.decode("utf-8", "replace")
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        pass
    try:
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_stream_error(data: bytes, *, is_error: bool = False) -> FoundryError | None:
    """Return the error in an event of a stream, or None if the event is not an error.

    `is_error` is set for an event named `error`, which is an error whatever its data.
    """
    try:
        value = _lowercase_members(decode_lenient_json(data))
    except ValueError:
        if not is_error:
            return None
        value = data.decode("utf-8", "replace")
    if not is_error and not _is_error(value):
        return None
    inner = _lowercase_members(value.get("error")) if is_object(value) else None
    members = inner if is_object(inner) else value if is_object(value) else _NO_MEMBERS
    kind = members.get("type")
    status = _get_http_status(members, kind)
    if get_error_class(members) is not None:
        failure = classify_error_object(status, members)
    else:
        failure = classify(status, extract_error_message(inner) or extract_error_message(value))
    # The model has already begun to answer. A retry is worthwhile only if the service calls it
    # its own failure, or if the message identified a more specific error.
    if type(failure) is ServerError and kind != _SERVER_ERROR_TYPE:
        failure.retryable = False
    return failure


def _lowercase_members(value: Any) -> Any:
    # .NET may write member names with capitals.
    return {key.lower(): item for key, item in value.items()} if is_object(value) else value


def _is_error(value: object) -> bool:
    if not is_object(value):
        return False
    error = value.get("error")
    if error or (is_object(error) and not value.get("choices")):
        return True
    if "error" in (value.get("object"), value.get("type")):
        return True
    has_answer = any(value.get(name) is not None for name in ("choices", "usage", "type"))
    return not has_answer and any(value.get(name) for name in _ERROR_KEYS)


def _get_http_status(error: dict[str, Any], kind: object) -> int:
    """Return the HTTP status that the error would have had as a response of its own."""
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isdecimal() and len(code) == 3:  # noqa: PLR2004
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:  # noqa: PLR2004 - HTTP's classes
            return 400 if code in {404, 405} else code  # the route exists: the stream began
    name = kind.lower() if isinstance(kind, str) else ""
    if any(word in name for word in _OVERLOAD_WORDS):
        return 429
    return 400 if any(word in name for word in _CALLER_ERROR_WORDS) else 500
