"""Arguments of any type become Python's built-in types."""

from __future__ import annotations

import enum
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from foundry_api import (
    AlertCommand,
    AlertWebhook,
    BreakerSettings,
    CallTimeout,
    FoundryAPIClient,
    FoundryError,
    HealthMonitor,
    HookFailed,
    Hysteresis,
    LimiterSettings,
    Message,
    ModelResidency,
    Request,
    ToolDefinition,
    ToolDefinitionError,
    tool,
)
from foundry_api.batch.in_memory import _validate_request
from foundry_api.batch.types import BatchRequest
from foundry_api.core.chat import make_chat_request
from foundry_api.core.embeddings import check_batch_size, validate_texts
from foundry_api.core.raw_request import make_raw_request
from foundry_api.core.responses import build_operation
from foundry_api.core.transcriptions import make_transcription_options
from foundry_api.integrations.langchain_messages import to_messages
from foundry_api.resilience.deadline import Deadline
from foundry_api.testing import FakeService
from foundry_api.tools.definition import to_definitions
from foundry_api.types.checks import (
    check_flag,
    check_model_names,
    check_name,
    check_timeout,
    prompt_to_messages,
    validate_messages,
)
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.settings import Settings
from foundry_api.types.values import (
    UNENCODABLE,
    as_bool,
    as_float,
    as_int,
    as_path,
    as_text,
    encode,
    format_value,
    strip_secrets,
    to_plain,
)


class Text(str):
    """Like Django's SafeString and BeautifulSoup's NavigableString."""

    __slots__ = ("parent",)

    def __str__(self) -> str:
        return "not the text"


class Whole(int):
    """A subclass of int."""


class Real(float):
    """A subclass of float."""


class Word(enum.StrEnum):
    HI = "Hi"


class OldWord(str, enum.Enum):  # noqa: UP042 - its `str()` is another text
    HI = "Hi"


class Count(enum.IntEnum):
    ONE = 1


TEXTS = [Text("Hi"), np.str_("Hi"), Word.HI, OldWord.HI]
WHOLES = [Whole(1), np.int64(1), np.uint8(1), Count.ONE]
REALS = [Real(1), np.float64(1), np.float32(1), np.float16(1), Decimal(1), Fraction(1), *WHOLES]


@pytest.mark.parametrize("value", TEXTS)
def test_text_subclasses_become_str(value: Any) -> None:
    assert type(as_text(value)) is str
    request = make_chat_request(
        [{"role": "user", "content": value}, Message("user", value)],
        stop=value,
        extra={"user": value, value: [value]},
    )
    sent = [*(turn.content for turn in request.messages), *request.stop, request.extra["user"]]
    assert sent == ["Hi"] * 4
    assert {type(text) for text in sent} == {str}
    assert msgspec.json.encode(request).count(b'"Hi"') == 6
    assert [turn.content for turn in prompt_to_messages(value, value)] == ["Hi", "Hi"]
    assert {type(text) for text in (*check_model_names(value), *check_model_names([value]))} == {
        str
    }
    assert make_chat_request(prompt_to_messages("x"), stop=[value]).stop == ("Hi",)
    assert {type(text) for text in (*validate_texts(value), *validate_texts([value]))} == {str}
    assert type(check_name("name", value)) is str
    assert make_transcription_options(None, None, value) == {"prompt": "Hi"}
    assert encode(build_operation(value, {"instructions": value, "metadata": {"a": value}}).members)
    assert (
        make_raw_request("GET", "/a", params={"q": value}, headers={"X-A": value}).path == "/a?q=Hi"
    )
    assert make_raw_request("POST", "/a", json={"q": [value]}).body == b'{"q":["Hi"]}'


@pytest.mark.parametrize("role", [np.str_("user"), Text("user")])
def test_a_role_may_be_a_text_subclass(role: Any) -> None:
    for message in ({"role": role, "content": "Hi"}, Message(role, "Hi")):
        assert type(validate_messages([message])[0].role) is str


@pytest.mark.parametrize("value", REALS)
def test_number_types_become_float_or_int(value: Any) -> None:
    request = make_chat_request(
        prompt_to_messages("x"), temperature=value, top_p=value, extra={"a": value}
    )
    assert {type(number) for number in (request.temperature, request.top_p)} <= {int, float}
    assert (request.temperature, request.top_p, request.extra) == (1, 1, {"a": 1})
    assert type(check_timeout(value)) in {int, float}
    assert Deadline.after(value).limit_s == 1
    assert encode(build_operation("x", {"temperature": value, "top_p": value}).members)
    assert encode(make_transcription_options(None, value, None)) in {
        b'{"temperature":1}',
        b'{"temperature":1.0}',
    }
    settings = Settings(timeout_s=value, deadline_s=value, connect_timeout_s=value)
    assert {type(each) for each in (settings.timeout_s, settings.deadline_s)} == {float}


@pytest.mark.parametrize("value", WHOLES)
def test_integer_types_become_int(value: Any) -> None:
    request = make_chat_request(prompt_to_messages("x"), max_tokens=value, seed=value)
    assert {type(request.max_tokens), type(request.seed)} == {int}
    assert type(check_batch_size(value)) is int
    assert type(Settings(max_retries=value).max_retries) is int
    assert encode(build_operation("x", {"max_output_tokens": value, "seed": value}).members)
    assert make_raw_request("GET", "/a", params={"n": value}).path == "/a?n=1"


@pytest.mark.parametrize("value", [np.True_, True, 1])
def test_bool_types_become_bool(value: Any) -> None:
    assert check_flag("download", value) is True
    assert (
        build_operation("x", {"store": value, "parallel_tool_calls": value}).members["store"]
        is True
    )


@pytest.mark.parametrize("value", ["yes", 2, [], 0.5, object()])
def test_an_invalid_flag_is_named(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^download is .*, neither True nor False") as caught:
        check_flag("download", value)
    assert caught.value.field == "download"


def test_a_batch_request_of_foreign_types_becomes_plain_json() -> None:
    body: Any = {
        Text("messages"): [{"role": np.str_("user"), "content": Text("Hi")}],
        "temperature": np.float64(0.5),
        "max_tokens": np.int64(5),
    }
    checked = _validate_request(BatchRequest(custom_id=Text("a"), body=body))
    assert msgspec.json.encode(checked.body) == (
        b'{"messages":[{"role":"user","content":"Hi"}],"temperature":0.5,"max_tokens":5}'
    )


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1.5, 1 + 2j, b"1", [1], math.nan])
def test_as_int_refuses_other_types(value: Any) -> None:
    assert as_int(value) is None


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1 + 2j, np.complex128(1), 10**400])
def test_as_float_refuses_other_types(value: Any) -> None:
    assert as_float(value) is None
    assert as_float(Decimal("sNaN")) is None
    assert as_bool("1") is None


class Stubborn(float):
    """A float whose conversion fails."""

    def __float__(self) -> float:
        raise RuntimeError


class Odd(int):
    """An int with wrong arithmetic."""

    def __add__(self, other: object) -> Any:
        return "sum"

    def __index__(self) -> int:
        raise RuntimeError


def test_a_subclass_keeps_its_number_despite_its_methods() -> None:
    assert (as_float(Stubborn(0.5)), type(as_float(Stubborn(0.5)))) == (0.5, float)
    assert (as_int(Odd(5)), type(as_int(Odd(5)))) == (5, int)


def test_a_timeout_may_be_infinite_but_not_too_large() -> None:
    assert check_timeout(math.inf) == math.inf
    for seconds, wrong in (
        (10**400, "neither seconds nor 'auto'"),
        (-1, "above 0 s"),
        (math.nan, "above 0 s"),
    ):
        with pytest.raises(InvalidRequest, match=wrong) as caught:
            check_timeout(seconds)
        assert caught.value.field == "timeout"


NOT_FINITE = [
    math.nan,
    math.inf,
    -math.inf,
    np.float64("nan"),
    Decimal("NaN"),
    Decimal("-Infinity"),
]


@pytest.mark.parametrize("value", [*NOT_FINITE, Decimal("sNaN"), np.float32("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_path(value: Any) -> None:
    for function in (encode, to_plain):
        with pytest.raises(ValueError, match=r"^\['a'\]\[1\]\['b'\] is .*, which JSON cannot"):
            function({"a": [None, {"b": value}]})
    assert to_plain({"a": [None, "NaN", "null", "Infinity"]}) == {
        "a": [None, "NaN", "null", "Infinity"]
    }


@pytest.mark.parametrize("value", NOT_FINITE)
def test_no_argument_accepts_a_number_that_is_not_finite(value: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number", "default": value}}}
    body: Any = {"messages": [{"role": "user", "content": "Hi"}], "tools": [value]}
    for argument, call in (
        ("extra", lambda: make_chat_request(prompt_to_messages("x"), extra={"n": value})),
        ("extra", lambda: build_operation("x", {"extra": {"n": value}})),
        ("reasoning", lambda: build_operation("x", {"reasoning": {"n": value}})),
        ("json", lambda: make_raw_request("POST", "/a", json={"n": value})),
        ("tools[0]", lambda: to_definitions([{"name": "f", "parameters": schema}])),
        (
            "tools[0].parameters",
            lambda: to_definitions([ToolDefinition(name="f", parameters=schema)]),
        ),
        ("body", lambda: _validate_request(BatchRequest(custom_id="a", body=body))),
    ):
        with pytest.raises(InvalidRequest, match="which JSON cannot represent") as caught:
            call()
        assert caught.value.field == argument


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": 5}, "name"),
        ({"description": 5}, "description"),
        ({"description": "a\0b"}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"parameters": 5}, "parameters"),
        ({"parameters": {"default": object()}}, "parameters"),
        ({"parameters": {"default": math.nan}}, "parameters"),
    ],
)
def test_an_invalid_tool_is_refused_when_it_is_defined(
    arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(lambda: None, **{"name": "f", "parameters": {}, **arguments})
    assert caught.value.field == field


def test_a_tool_definition_has_plain_values() -> None:
    schema: Any = {"type": "object", "default": np.float64(1)}
    made = tool(lambda: None, name=np.str_("f"), description=Text("F."), parameters=schema)
    assert msgspec.json.encode(made.definition) == (
        b'{"name":"f","description":"F.","parameters":{"type":"object","default":1.0}}'
    )


def test_a_default_that_is_not_finite_is_omitted() -> None:
    def weigh(kilos: float = math.nan) -> float:
        return kilos

    assert tool(weigh).definition.parameters["properties"] == {"kilos": {"type": "number"}}


def test_an_empty_array_of_tools_is_no_tools() -> None:
    assert make_chat_request(prompt_to_messages("x"), tools=np.array([])).tools == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("message", [{"role": "user", "content": "Hi"}, Message("user", "Hi")])
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "", " "])
def test_simple_messages_are_checked_like_others(message: Any, text: str) -> None:
    assert validate_messages([message, message]) == (Message("user", "Hi"),) * 2
    invalid: Any = (
        {**message, "content": text} if isinstance(message, dict) else Message("user", text)
    )
    with pytest.raises(InvalidRequest) as caught:
        validate_messages((message, invalid))
    assert caught.value.field == "messages[1].content"


@pytest.mark.parametrize(
    "message",
    [{"role": ["user"], "content": "Hi"}, {"role": "robot", "content": "Hi"}, {"role": "user"}],
)
def test_a_message_with_an_invalid_role_is_named(message: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_messages([message])
    assert (caught.value.field or "").startswith("messages[0]")


def test_as_path_refuses_invalid_paths() -> None:
    assert as_path(Path("a")) == as_path(Text("a")) == "a"
    assert [as_path(each) for each in ("", "a\0b", 5, None, b"a")] == [None] * 5


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, np.float64("nan"), [b"x", object()]])
def test_values_without_a_json_form_are_refused(value: Any) -> None:
    with pytest.raises(UNENCODABLE):
        to_plain(value)


def test_format_value_is_short_and_never_fails() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert format_value(Broken()) == "of type Broken"
    assert format_value(10**5000) == "of type int"
    assert len(format_value("x" * 1000)) == 80


@pytest.mark.parametrize(
    "url",
    [
        "//user:hunter2@host",
        "http://user:hunter2@host/x",
        "user:hunter2@host:5273",
        "http://a b:hunter2@host",
        "http://u:hunter2?w@host",
        "ftp://host?token=hunter2",
        "http:/host#hunter2",
        "http://[user:hunter2@h",
        "http://host:hunter2@",
    ],
)
def test_a_url_in_an_error_shows_no_secret(url: str) -> None:
    assert "hunter2" not in strip_secrets(url)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its text is what is looked at
        FoundryAPIClient(f"{url}\0")
    assert "hunter2" not in f"{caught.value!r} {caught.value}"


def test_a_range_is_shown_with_all_digits() -> None:
    with pytest.raises(InvalidRequest, match="must be from 1 to 2147483647"):
        make_chat_request(prompt_to_messages("x"), max_tokens=0)
    with pytest.raises(InvalidRequest, match="to 9223372036854775807"):
        make_chat_request(prompt_to_messages("x"), seed=2**63)
    with pytest.raises(InvalidRequest, match=r"^max_tokens is of type int, but"):
        make_chat_request(prompt_to_messages("x"), max_tokens=10**5000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stop": 5}, "stop is 5, not a string or a list of strings"),
        (
            {"tool_choice": {"type": "function"}},
            "tool_choice is {'type': 'function'}, not a string",
        ),
        ({"extra": [("a", 1)]}, "extra is [('a', 1)], not a mapping"),
        ({"temperature": "warm"}, "temperature is 'warm', not a number"),
    ],
)
def test_a_wrong_type_names_the_expected_one(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_chat_request(prompt_to_messages("x"), **arguments)
    assert caught.value.message == message


@pytest.mark.parametrize("messages", ["hi", {"role": "user", "content": "hi"}, None, 5])
def test_messages_must_be_a_list(messages: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^messages is .*, not a list of messages"):
        validate_messages(messages)


@pytest.mark.parametrize("model", [5, {"a": 1}, b"demo", 1.5])
def test_a_model_must_be_a_name_or_a_list(model: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^model is .*, not a model's name or a list"):
        check_model_names(model)


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2J", "a\nb", "", " ", "\ud800", 5, None])
def test_an_invalid_model_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_name("alias", name)
    assert caught.value.field == "alias"
    assert caught.value.message.isprintable()


class TestEmptyTurns:
    ASK = Message("user", "Hi")

    @pytest.mark.parametrize("content", ["", " \n", None, [], [{"type": "text", "text": ""}]])
    @pytest.mark.parametrize("role", ["system", "assistant"])
    def test_system_and_assistant_messages_are_omitted(self, role: str, content: Any) -> None:
        assert validate_messages([self.ASK, {"role": role, "content": content}, self.ASK]) == (
            self.ASK,
            self.ASK,
        )

    def test_an_assistant_message_with_tool_calls_stays(self) -> None:
        turn = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        }
        assert validate_messages([self.ASK, turn])[1].tool_calls[0].id == "1"

    @pytest.mark.parametrize("content", ["", " ", None])
    def test_an_empty_tool_result_becomes_json(self, content: Any) -> None:
        turn = {"role": "tool", "content": content, "tool_call_id": "1"}
        assert validate_messages([self.ASK, turn])[1] == Message("tool", '""', tool_call_id="1")

    @pytest.mark.parametrize("before", [[], [ASK], [Message("assistant", "Hello")]])
    def test_an_empty_user_message_is_refused(self, before: list[Message]) -> None:
        with pytest.raises(InvalidRequest) as caught:
            validate_messages([*before, Message("user", "")])
        assert caught.value.message == f"messages[{len(before)}].content is empty"

    def test_only_empty_messages_are_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"^messages has only empty messages"):
            validate_messages([Message("system", ""), Message("assistant", " ")])

    def test_an_empty_system_prompt_is_omitted(self) -> None:
        assert prompt_to_messages("Hi", " ") == [self.ASK]

    def test_responses_omit_them_too(self) -> None:
        messages = [
            {"role": "system", "content": ""},
            {"role": "assistant", "content": [{"type": "output_text", "text": " "}]},
            {"type": "function_call_output", "call_id": "1", "output": ""},
            {"role": "user", "content": "Hi"},
        ]
        items = build_operation(messages, {"instructions": ""}).members
        assert "instructions" not in items
        assert items["input"] == [
            {"type": "function_call_output", "call_id": "1", "output": '""'},
            {"type": "message", "role": "user", "content": "Hi"},
        ]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (LimiterSettings, {"concurrency": "2"}),
        (LimiterSettings, {"queue": 1.5}),
        (BreakerSettings, {"failure_rate": "half"}),
        (BreakerSettings, {"minimum_calls": 2.5}),
        (BreakerSettings, {"slow_s": True}),
        (ModelResidency, {"keep_alive_s": "60"}),
        (ModelResidency, {"max_loaded": 1.5}),
        (ModelResidency, {"hold_s": None}),
        (Hysteresis, {"down_after": "2"}),
        (AlertWebhook, {"url": 5}),
        (AlertWebhook, {"url": "https://h", "headers": {"Host": "x"}}),
        (AlertWebhook, {"url": "https://h", "timeout_s": "1"}),
        (AlertCommand, {"command": ["a", 5]}),
        (AlertCommand, {"command": ["a"], "timeout_s": 0}),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(kind: Any, arguments: dict[str, Any]) -> None:
    name = next(reversed(arguments))
    with pytest.raises(FoundryError) as caught:
        kind(**arguments)
    assert name in f"{caught.value} {caught.value.__dict__}".replace("webhook", "url")


@pytest.mark.parametrize(
    "arguments",
    [
        {"interval": "5"},
        {"timeout": True},
        {"models": 5},
        {"models": "demo"},
        {"models": ["a\0b"]},
        {"canary_every": 1.5},
        {"canary_timeout": "x"},
        {"hysteresis": 5},
        {"history": 0},
        {"history": 1.5},
        {"history": ""},
        {"keep_days": -1},
        {"alerts": print},
        {"alerts": ["x"]},
    ],
)
def test_an_invalid_monitor_argument_is_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(InvalidRequest) as caught:
        HealthMonitor(FoundryAPIClient("http://127.0.0.1:1"), **arguments)
    assert (caught.value.field or "").partition("[")[0] == name


def test_settings_convert_number_types() -> None:
    residency = ModelResidency(keep_alive_s=np.float32(60), max_loaded=np.int64(2))  # type: ignore[arg-type]
    assert (type(residency.keep_alive_s), type(residency.max_loaded)) == (float, int)
    assert type(BreakerSettings(slow_s=Decimal(5)).slow_s) is float  # type: ignore[arg-type]
    assert type(LimiterSettings(concurrency=np.int64(5)).concurrency) is int  # type: ignore[arg-type]


async def test_a_timeout_of_zero_expires_at_once() -> None:
    monitor = HealthMonitor(FoundryAPIClient("http://127.0.0.1:1"))
    for seconds in (0, -1):
        with pytest.raises(CallTimeout):
            await monitor.wait_until_ready(timeout=seconds)
    with pytest.raises(InvalidRequest, match="not a number of seconds"):
        await monitor.wait_until_ready(timeout="5")  # type: ignore[arg-type]


def test_a_tool_definition_converts_text_types() -> None:
    given = {"type": "function", "function": {"name": Text("f"), "description": np.str_("d")}}
    (definition,) = to_definitions([given])
    assert (type(definition.name), type(definition.description)) == (str, str)


async def test_errors_show_no_query() -> None:
    request = Request("GET", "http://127.0.0.1:1/x?token=hunter2")
    assert repr(request) == "Request(GET http://127.0.0.1:1/x)"
    async with FoundryAPIClient("http://127.0.0.1:1", max_retries=0) as client:
        with pytest.raises(FoundryError) as caught:
            await client.request("GET", "/x?token=hunter2")
        with pytest.raises(InvalidRequest) as refused:
            await client.request("GET", "x?token=hunter2")
        with pytest.raises(InvalidRequest) as unsent:
            await client.request("GET", "/x", params={"token": b"hunter2"})  # type: ignore[dict-item]
    for error in (caught.value, refused.value, unsent.value):
        assert "hunter2" not in f"{error} {error!r}"


@pytest.mark.parametrize("name", ["Host", "Content-Length", "X-A"])
async def test_a_hook_cannot_set_framing_headers(name: str) -> None:
    def hook(request: Request) -> Request:
        return request.with_headers({name: "1\r\nX: y" if name == "X-A" else "1"})

    async with (
        FakeService() as service,
        FoundryAPIClient(service.base_url, request_hooks=[hook], max_retries=0) as client,
    ):
        with pytest.raises(HookFailed, match=rf"headers\['{name}'\]"):
            await client.request("GET", "/v1/models")


def test_empty_langchain_messages_are_handled_alike() -> None:
    messages = [
        SystemMessage(""),
        HumanMessage("Hi"),
        AIMessage(""),
        AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]),
        ToolMessage("", tool_call_id="1"),
    ]
    sent = validate_messages(to_messages(messages))
    assert [(turn.role, turn.content) for turn in sent] == [
        ("user", "Hi"),
        ("assistant", ""),
        ("tool", '""'),
    ]
    with pytest.raises(InvalidRequest, match=r"^messages\[1\].content is empty"):
        validate_messages(to_messages([HumanMessage("Hi"), HumanMessage(" ")]))


@pytest.mark.parametrize("validators", [5, print, "x"])
async def test_validators_must_be_a_list(validators: Any) -> None:
    client = FoundryAPIClient("http://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match=r"^validators is .*, not a list"):
        await client.complete("Hi", validators=validators)


async def test_choices_may_be_an_array() -> None:
    async with (
        FakeService("b") as service,
        FoundryAPIClient(service.base_url, model="fake") as client,
    ):
        answer = await client.complete("Hi", choice=np.array(["a", "b"]))  # type: ignore[arg-type]
    assert (answer.parsed, type(answer.parsed)) == ("b", str)
