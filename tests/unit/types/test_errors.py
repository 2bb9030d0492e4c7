"""Every error has a message and a hint, and errors of services are classified."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.model_import import errors as import_errors
from foundry_api.resilience import prompt_reading
from foundry_api.tools import errors as tool_errors
from foundry_api.types import errors
from foundry_api.types.errors import FoundryError
from foundry_api.wire.errors import _SOURCE_LOCATION, MAX_MESSAGE_CHARS, classify, clean_message

CLASSES: list[type[FoundryError]] = [
    value
    for value in (
        vars(errors) | vars(tool_errors) | vars(import_errors) | vars(prompt_reading)
    ).values()
    if inspect.isclass(value) and issubclass(value, FoundryError)
]
BASES = {"BatchError", "ToolError", "FoundryError", "ModelError", "ServiceError"}


def drawn_tree() -> dict[str, tuple[str, ...]]:
    """Parse the class tree from the module's docstring."""
    tree = {"FoundryError": ("Exception",)}
    parents = ["FoundryError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    (?P<stem>[│ ]*)[├└]── (?P<name>\w+)(?: \((?P<other>\w+)\))?", line)
        if found:
            depth = len(found["stem"]) // 4 + 1
            parents[depth:] = [found["name"]]
            others = (found["other"],) if found["other"] else ()
            tree[found["name"]] = (parents[depth - 1], *others)
    return tree


def test_the_docstring_shows_the_class_tree() -> None:
    classes = {c.__name__: tuple(base.__name__ for base in c.__bases__) for c in CLASSES}
    assert drawn_tree() == classes


def test_every_error_is_public() -> None:
    names = [*errors.__all__, *tool_errors.__all__, *import_errors.__all__, "DeadlineTooShort"]
    assert sorted(c.__name__ for c in CLASSES) == sorted(names)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_class_has_a_hint(kind: type[FoundryError]) -> None:
    without_default = {"ConfigurationError"}  # each of its raisers knows better
    assert bool(kind.default_hint) != (kind.__name__ in BASES | without_default)
    assert not kind.default_hint or kind.default_hint.endswith(".")


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_can_be_pickled_and_copied(kind: type[FoundryError]) -> None:
    error = kind("it broke").with_context(model="m", service="http://s", attempts=2)
    for field in ("hint", "field", "partial", "log_path"):
        if hasattr(error, field):
            setattr(error, field, "something")
    for field in ("status", "prompt_tokens", "context_length", "limit_s"):
        if hasattr(error, field):
            setattr(error, field, 7)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(twin) is kind
        assert vars(twin) == vars(error)
        assert str(twin) == str(error)
        assert twin.args == error.args


def test_the_text_has_all_details_and_the_hint() -> None:
    error = errors.ServerError("it broke", model="m", service="http://s", status=500, attempts=2)
    assert str(error) == (
        "it broke (model m, service http://s, HTTP 500, after 2 attempts). "
        "Call again; if the error persists, see the engine's log."
    )


def test_the_text_repeats_no_detail() -> None:
    error = errors.ServerError(
        "m at http://s answered HTTP 500",
        hint="",
        model="m",
        service="http://s",
        status=500,
        attempts=1,
    )
    assert str(error) == "m at http://s answered HTTP 500."


def test_with_context_sets_only_missing_details() -> None:
    error = errors.ServerError("it broke", model="known")
    assert error.with_context(model="other", service="http://s", attempts=3) is error
    assert (error.model, error.service, error.attempts) == ("known", "http://s", 3)
    assert error.with_context().attempts == 3


def test_similar_model_names_are_suggested() -> None:
    error = errors.ModelNotFound("no such model", nearest=["phi-4", "phi-3"])
    assert error.nearest == ("phi-4", "phi-3")
    assert error.hint.startswith("Did you mean phi-4 or phi-3? ")
    assert isinstance(error, LookupError)


def test_the_limit_of_a_timeout_is_a_float() -> None:
    assert msgspec.json.encode(E.CallTimeout("slow").limit_s) == b"0.0"


def test_a_failed_start_names_its_log() -> None:
    error = errors.ServiceStartFailed("it did not start", log_path="/logs/host.log")
    assert str(error).endswith("/logs/host.log")


BUDGET = (
    "search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, int) request "
    "requires 9020 total tokens (20 input + 9000 output), which exceeds the model's maximum "
    "context length of 8192 tokens"
)


WINDOWS_BUDGET = BUDGET.replace("int fl::", "fl::").replace("(int64_t, int, int)", "")


@pytest.mark.parametrize(
    ("message", "cleaned"),
    [
        (BUDGET, BUDGET.partition("int) ")[2]),
        (f"Invalid request: {BUDGET}.", f"Invalid request: {BUDGET.partition('int) ')[2]}"),
        (
            (
                "stop_strings.cc:56 std::vector<std::__cxx11::basic_string<char>, std::allocator<"
                "std::__cxx11::basic_string<char> > > fl::{anonymous}::NormalizeStopStringsImpl("
                "const nlohmann::json_abi_v3_11_3::json&, size_t, bool, const char*) stop "
                "supports at most 4 strings"
            ),
            "stop supports at most 4 strings",
        ),
        (
            (
                "http_client.cc:304 std::string fl::http::RetryWithBackoff(const std::function<"
                "RetryAttempt()>&, const RetryConfig&, fl::ILogger&, const std::function<void(std::"
                "chrono::duration<long int, std::ratio<1, 1000> >)>&) operation failed after 4 "
                "attempts: transport failure"
            ),
            "operation failed after 4 attempts: transport failure",
        ),
        ("search_options.cc:108 int fl::Validate(const std::string&) request x", "request x"),
        ("a/b/model.h:9 void fl::Model::Load() const cannot read", "cannot read"),
        ("a.cc:1 void (anonymous namespace)::f(int) broke", "broke"),
        ("a.cc:1 auto fl::X::operator()(int) const broke", "broke"),
        # By the compiler of Windows: names without types and parameters.
        (WINDOWS_BUDGET, BUDGET.partition("int) ")[2]),
        (f"Invalid request: {WINDOWS_BUDGET}", f"Invalid request: {BUDGET.partition('int) ')[2]}"),
        ("a.cc:1 fl::`anonymous-namespace'::Fail tool 'f': no (x)", "tool 'f': no (x)"),
        ("a.cc:1 fl::S::`anonymous-namespace'::F::<lambda_2>::operator () broke (1)", "broke (1)"),
        ("a.cc:1 fl::Model::~Model session(s) still using it", "session(s) still using it"),
        ("a.cc:1 fl::Model fl::Catalog::Get(int) broke", "broke"),
        ("a.cc:1 void f() outer: b.cc:2 void g() inner", "outer: inner"),
        ("model.cc:12 cannot open it (errno 2)", "cannot open it (errno 2)"),
        ("model.cc:12 cannot open it", "cannot open it"),
        ("nothing to clean (at all).", "nothing to clean (at all)"),
        ("", ""),
    ],
)
def test_the_engines_source_locations_are_removed(message: str, cleaned: str) -> None:
    assert clean_message(message) == cleaned


E = errors


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        # 1C: SDK 1.x
        (
            400,
            "Model 'x' is not loaded. Please load the model before getting a ChatClient.",
            E.ModelNotLoaded,
        ),
        (404, "The model 'script:1' does not exist", E.ModelNotFound),
        (500, "Failed to retrieve model list: Catalog request failed", E.CatalogUnavailable),
        (500, "Catalog request failed across 7 region(s): x", E.CatalogUnavailable),
        (500, "Invalid OpenAI JSON request: x", E.InvalidRequest),
        (
            400,
            (
                "This request requires 9 total tokens, which exceeds the model's maximum context "
                "length"
            ),
            E.ContextOverflow,
        ),
        (
            500,
            "input_ids size (6007) + current sequence length (0) exceeds max length (4096)",
            E.ContextOverflow,
        ),
        (400, "", E.InvalidRequest),
        (404, "", E.RouteNotFound),
        (405, "", E.RouteNotFound),
        (414, "", E.InvalidRequest),
        (431, "", E.InvalidRequest),
        (500, "", E.ServerError),
        # 1D: SDK 2.x
        (404, "No mapping for HTTP-method: 'HEAD', URL: '/status'", E.RouteNotFound),
        (404, "Model not found: No model matching 'x'", E.ModelNotFound),
        (404, "No model matching 'tinychat%3A2'", E.ModelNotFound),
        (400, "Model not cached: Model must be downloaded before loading", E.ModelNotCached),
        (
            500,
            (
                "Load failed: x requires CUDAExecutionProvider which is not registered. Call "
                "DownloadAndRegisterEps() first."
            ),
            E.ModelLoadFailed,
        ),
        (
            500,
            "Unload failed: cannot unload model 'slow:1': 2 session(s) still using it",
            E.ModelInUse,
        ),
        (
            400,
            "Model not loaded: Model 'x' must be loaded before inference",
            E.ModelNotLoaded,
        ),
        (500, "Inference failed: something", E.ServerError),
        (400, f"Invalid request: {BUDGET}", E.ContextOverflow),
        (500, f"Inference failed: {BUDGET}", E.ContextOverflow),
        (400, "Invalid request: temperature must be at most 2", E.InvalidRequest),
        (400, "Invalid JSON: x", E.InvalidRequest),
        (
            400,
            (
                "Unsupported parameter: nonzero frequency_penalty and presence_penalty are not "
                "supported"
            ),
            E.UnsupportedParameter,
        ),
        (500, "Error creating grammar: x", E.GrammarError),
        (500, "SSE stream buffer limit exceeded", E.ServerError),
        (500, "failed to parse local model registration index: x", E.ConfigurationError),
        (400, "Audio file not found: 'x.wav'", E.InvalidRequest),
        (400, "Model mismatch", E.InvalidRequest),
        # 6 and 7
        (400, "No OpenAIService provider found for modelName", E.ModelNotCached),
        (302, "", E.ProtocolError),
        (200, "", E.ProtocolError),
        (408, "", E.ServerError),
        (429, "", E.ServiceOverloaded),
        (503, "", E.ServiceOverloaded),
        (599, "\t ", E.ServerError),
    ],
)
def test_service_errors_are_classified(status: int, message: str, kind: type[FoundryError]) -> None:
    error = classify(status, message)
    assert type(error) is kind
    assert error.status == status
    assert str(error).endswith(error.hint)


def test_a_recording_with_too_few_samples_is_an_invalid_argument() -> None:
    error = classify(500, "Inference failed: [AudioDecoder]: only down-sampling supported")
    assert isinstance(error, errors.InvalidRequest)
    assert error.field == "audio"
    assert "-ar 16000" in error.hint


def test_an_overflow_has_the_token_counts() -> None:
    error = classify(400, BUDGET)
    assert isinstance(error, errors.ContextOverflow)
    assert (error.prompt_tokens, error.max_tokens, error.context_length) == (20, 9000, 8192)
    assert error.field == "max_tokens"


def test_an_overflow_ignores_huge_numbers() -> None:
    error = classify(400, BUDGET.replace("20 input", f"{'9' * 5000} input"))
    assert not isinstance(error, errors.ContextOverflow) or error.prompt_tokens is None


TEXTS = st.text() | st.lists(
    st.sampled_from(
        ["a.cc:1 ", "void f(", ")", "(", " ", "::", "x.h", ":9", " const ", "tokens", "."]
    )
).map("".join)


@given(text=TEXTS)
def test_any_message_is_cleaned_completely(text: str) -> None:
    assert len(clean_message(text)) <= len(text)
    assert not _SOURCE_LOCATION.search(clean_message(text))


@given(status=st.integers(100, 599), text=TEXTS)
def test_any_status_and_text_are_classified(status: int, text: str) -> None:
    error = classify(status, text)
    assert error.message
    assert error.hint
    assert error.status == status


@pytest.mark.parametrize("text", ["a", "a.h:1 ", "a.h:1 (", "(", "a.", "./"])
def test_cleaning_a_large_message_is_fast(text: str) -> None:
    assert len(clean_message(text * 2**20)) <= MAX_MESSAGE_CHARS
