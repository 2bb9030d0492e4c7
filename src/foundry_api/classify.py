"""How the words of a service become one of the errors of `errors.py`."""

from __future__ import annotations

import re

from foundry_api.errors import (
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
    RouteMissing,
    ServerError,
    ServiceOverloaded,
    ToolCallError,
    ToolMarkersMissing,
    UnsupportedParameter,
)

__all__ = ["classify", "clean"]

_SOURCE_PLACE = re.compile(r"(?<![\w./\\-])[\w./\\-]+\.(?:cc|cpp|h|hpp):\d+ ")

_LAMBDA = re.compile(r"(?: const)?::<lambda\([^()<>]{0,200}\)>")
_WRAPPING = re.compile(r"^Failed to handle OpenAI completion: |\s*\(Parameter '\w+'\)$")
"""What 1.x puts around its messages: the name of its handler, and .NET's of an argument."""

_PARSER_STATE = "\n<state>"
"""Ahead of pages of what the engine's grammar parser has in mind."""

MAX_MESSAGE_CHARS = 2000
"""A longer one is no message; what lies behind is cut off before anything searches it."""


def clean(message: str) -> str:
    """The service's message without what names places in its source.

    The 2.x engine writes `search_options.cc:108 int fl::Validate(const std::string&) request ...`;
    only what follows the signature is meant for people.
    """
    message = message[:MAX_MESSAGE_CHARS].partition(_PARSER_STATE)[0]
    while place := _SOURCE_PLACE.search(message):
        end = _signature_end(message, place.end())
        if not message[end:].strip():
            end = place.end()  # the parentheses were the message's own
        message = message[: place.start()] + message[end:].lstrip()
    return _WRAPPING.sub("", message.strip()).rstrip(".")


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
    told = clean(message) or f"the service answered HTTP {status} without a message"
    kind = next((error for pattern, error in _COMPILED if pattern.search(told)), None)
    if kind is ContextOverflow:
        return _context_overflow(told, status)
    if kind is ConfigurationError:
        return ConfigurationError(told, status=status, hint=_REGISTRATIONS_HINT)
    if kind is ModelLoadFailed:
        return ModelLoadFailed(told, status=status, hint=_load_hint(told))
    return (kind or _by_status(status))(told, status=status)


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
        return RouteMissing
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


def _context_overflow(told: str, status: int) -> ContextOverflow:
    found = _BUDGET.search(told) or _PROMPT.search(told)
    counts = {name: int(count) for name, count in found.groupdict().items()} if found else {}
    return ContextOverflow(
        told,
        status=status,
        prompt_tokens=counts.get("prompt"),
        max_tokens=counts.get("output"),
        context_length=counts.get("context"),
    )
