"""How the words of a service become one of the errors of `errors.py`."""

from __future__ import annotations

import json
import math
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

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

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NOT_JSON",
    "classify",
    "clean_message",
    "decode_lenient_json",
    "extract_error_message",
    "parse_retry_after",
    "parse_stream_error",
]


_SOURCE_LOCATION = re.compile(r"(?<![\w./\\-])[\w./\\-]+\.(?:cc|cpp|h|hpp):\d+ ")

_LAMBDA = re.compile(r"(?: const)?::<lambda\([^()<>]{0,200}\)>")
_WRAPPER = re.compile(r"^Failed to handle OpenAI completion: |\s*\(Parameter '\w+'\)$")
"""What 1.x puts around its messages: the name of its handler, and .NET's of an argument."""

_PARSER_STATE = "\n<state>"
"""Ahead of pages of what the engine's grammar parser has in mind."""

MAX_MESSAGE_CHARS = 2000
"""A longer one is no message; what lies behind is cut off before anything searches it."""


def clean_message(message: str) -> str:
    """The service's message without what names places in its source.

    The 2.x engine writes `search_options.cc:108 int fl::Validate(const std::string&) request ...`;
    only what follows the signature is meant for people.
    """
    message = message[:MAX_MESSAGE_CHARS].partition(_PARSER_STATE)[0]
    while place := _SOURCE_LOCATION.search(message):
        end = _signature_end(message, place.end())
        if not message[end:].strip():
            end = place.end()  # the parentheses were the message's own
        message = message[: place.start()] + message[end:].lstrip()
    return _WRAPPER.sub("", message.strip()).rstrip(".")


def _signature_end(text: str, start: int) -> int:
    """The index behind the balanced parentheses that open after `start`, or `start` without any."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] == "(":
            depth += 1
        elif text[index] == ")":
            depth -= 1
            # `(anonymous namespace)::f(int)` and `operator()(int)` go on behind the first pair.
            if depth == 0 and not text.startswith((":", "("), index + 1):
                end = index + 1
                if inner := _LAMBDA.match(text, end):
                    return inner.end()
                return end + len(" const") if text.startswith(" const ", end) else end
    return start


_TOOL_CALL = (
    r"^(inference failed: )?(model emitted an? (malformed|invalid) tool call"
    r"|model emitted unframed|tool '[^']*': instance |incomplete tool-call)"
)
"""What 2.2.1 says of calls that do not have the form or the arguments that it asks for."""

_RULES: tuple[tuple[str, type[FoundryError]], ...] = (
    (r"local model registration index", ConfigurationError),
    (r"session\(s\) still using", ModelInUse),
    (r"previous response not found|the response '[^']*' does not exist", ResponseNotFound),
    (r"input is not supported by model task|does not support audio", ModelTaskMismatch),
    (r"requires a multimodal model", ModelTaskMismatch),
    (r"'hidden_states' was not found|audio_features must be provided", ModelTaskMismatch),
    (r"\[audiodecoder\]|image_url local file not found|audio file not found", InvalidRequest),
    (r"must be downloaded|not cached|no openaiservice provider", ModelNotCached),
    (r"must be loaded|is not loaded|not loaded:", ModelNotLoaded),
    (r"load failed:", ModelLoadFailed),
    (r"maximum context length|exceeds max length", ContextOverflow),
    (_TOOL_CALL, ToolCallError),
    (r"model-published .*(markers|tokens)|unknown special token[^?]*toolcall", ToolMarkersMissing),
    (r"error (creating grammar|committing tokens)|invalid grammar", GrammarError),
    (r"unsupported parameter", UnsupportedParameter),
    (r"no model matching|does not exist|model not found", ModelNotFound),
    (
        r"catalog request failed|failed to retrieve model list|no models were returned",
        CatalogUnavailable,
    ),
    (r"invalid (openai )?(json )?request|invalid json", InvalidRequest),
)
"""What the services say, first match first. Sources: foundry-local-service.md, sections 1 and 7."""

_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), error) for pattern, error in _RULES)


def classify(status: int, message: str) -> FoundryError:
    """The typed error for what a service said.

    The message decides before the status: 1.x answers 500 to malformed JSON and 2.0.1 answers 500
    to a context overflow, which are the caller's mistakes and must not be sent again.

    Args:
        status: HTTP status, or the one that the failure would have had (stream errors come in
            a 200).
        message: The service's own words.
    """
    text = clean_message(message) or f"the service answered HTTP {status} without a message"
    kind = next((error for pattern, error in _COMPILED if pattern.search(text)), None)
    if kind is ContextOverflow:
        return _context_overflow(text, status)
    if kind is ConfigurationError:
        return ConfigurationError(text, status=status, hint=_REGISTRATIONS_HINT)
    if kind is ModelLoadFailed:
        return ModelLoadFailed(text, status=status, hint=_load_hint(text))
    return (kind or _by_status(status))(text, status=status)


_REGISTRATIONS_HINT = (
    "The engine's list of registered models, foundry.local.modelinfo.json, is damaged. Move it away"
    " (`foundry-api doctor` says where it is), end a shared engine with `foundry-api down`, and"
    " register your models again with `foundry-api models add`."
)

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
"""What helps where a load failed, by the engine's words (probed on 2.2.1)."""


def _load_hint(message: str) -> str | None:
    found = (
        hint for words, hint in _LOAD_HINTS.items() if re.search(words, message, re.IGNORECASE)
    )
    return next(found, None)


def _by_status(status: int) -> type[FoundryError]:
    if status in {404, 405}:
        return RouteNotFound
    if status < 400:  # noqa: PLR2004 - HTTP's classes
        return ProtocolError
    if status in {429, 503}:
        return ServiceOverloaded
    if status == 408:  # noqa: PLR2004 - the service gave up reading the request in time
        return ServerError
    return InvalidRequest if status < 500 else ServerError  # noqa: PLR2004 - as above


_BUDGET = re.compile(
    r"\((?P<prompt>\d{1,9}) input \+ (?P<output>\d{1,9}) output\).*?length of (?P<context>\d{1,9})"
)
_PROMPT = re.compile(
    r"input_ids size \((?P<prompt>\d{1,9})\).*?exceeds max length \((?P<context>\d{1,9})\)"
)
"""ONNX Runtime GenAI's own words, for a prompt that is too long by itself."""


def _context_overflow(text: str, status: int) -> ContextOverflow:
    found = _BUDGET.search(text) or _PROMPT.search(text)
    counts = {name: int(count) for name, count in found.groupdict().items()} if found else {}
    return ContextOverflow(
        text,
        status=status,
        prompt_tokens=counts.get("prompt"),
        max_tokens=counts.get("output"),
        context_length=counts.get("context"),
    )


def parse_retry_after(
    headers: Mapping[str, str], current_time: float | None = None
) -> float | None:
    """Seconds to wait, or None if the headers do not say.

    `Retry-After-Ms` is exact and comes first; Azure's gateways send it. `Retry-After` is seconds
    or an HTTP date. What cannot be read counts as not said.

    Args:
        headers: Of the answer; names compare without case.
        current_time: Seconds since the epoch; None asks the clock.
    """
    exact = _parse_seconds(headers.get("Retry-After-Ms", ""))
    if exact is not None:
        return exact / 1000
    header = headers.get("Retry-After", "")
    seconds = _parse_seconds(header)
    return _seconds_until(header, current_time) if seconds is None else seconds


def _parse_seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _seconds_until(date: str, current_time: float | None) -> float | None:
    try:
        timestamp = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, OSError):  # no date, or one outside the platform's range
        return None
    return max(0.0, timestamp - (time.time() if current_time is None else current_time))


NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON."""

MAX_DEPTH: Final = 6
"""How far an error is unwrapped."""

_MESSAGE_KEYS: Final = ("message", "error", "detail", "msg", "errors", "title", "error_message")
_ERROR_KEYS: Final = ("message", "detail", "errors", "error_message")
"""Of these, one says that an object without an answer is an error."""

_SERVER_ERROR_TYPE: Final = "server_error"
"""What Foundry Local calls its own failures, after which the same request may succeed."""

_CALLER_ERROR_WORDS: Final = (
    "invalid",
    "badrequest",
    "bad_request",
    "notfound",
    "not_found",
    "auth",
)
_NO_MEMBERS: Final[dict[str, Any]] = {}
_OVERLOAD_WORDS: Final = ("rate_limit", "ratelimit", "overloaded", "too_many")


def extract_error_message(value: object, depth: int = MAX_DEPTH) -> str:
    """The words in an error of any of these shapes; empty if there are none."""
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
    """JSON, also as Python writes it: with NaN, half surrogate pairs, or bytes that are not UTF-8.

    Raises:
        ValueError: It is none.
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
    """The error that an event of a stream carries; None if it carries none.

    An answer that failed within its stream was begun. It is asked for again only where the service
    calls that its own failure, or the message says what to put right.

    Args:
        data: The event's data.
        is_error: Whether the event is an error whatever its data, as one named `error` is.
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
    failure = classify(
        _get_http_status(members, kind),
        extract_error_message(inner) or extract_error_message(value),
    )
    if type(failure) is ServerError and kind != _SERVER_ERROR_TYPE:
        failure.retryable = False
    return failure


def _lowercase_members(value: Any) -> Any:
    """A JSON object with its keys in lower case, as .NET may write them in upper; else itself."""
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
    """The HTTP status that the failure would have had."""
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isdecimal() and len(code) == 3:  # noqa: PLR2004
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:  # noqa: PLR2004 - HTTP's classes
            return 400 if code in {404, 405} else code  # the route itself is there
    name = kind.lower() if isinstance(kind, str) else ""
    if any(word in name for word in _OVERLOAD_WORDS):
        return 429
    return 400 if any(word in name for word in _CALLER_ERROR_WORDS) else 500
