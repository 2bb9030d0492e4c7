"""The tool call formats of many models."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_api.types.errors import ToolCallError
from foundry_api.types.messages import ChatRequest, Message, ToolCall, ToolDefinition
from foundry_api.wire.chat.request import add_tool_recovery
from foundry_api.wire.chat.stream import ChatStream
from foundry_api.wire.chat.tool_call_matching import MalformedCall
from foundry_api.wire.chat.tool_call_parser import (
    ToolCallParser,
    ToolCallRecovery,
)

Calls = list[tuple[str, dict[str, Any]]]

TOOLS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "hours": {"type": "array", "items": {"type": "integer"}},
            "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
    "clock": {"type": "object", "properties": {}},
}
BERN: Calls = [("weather", {"city": "Bern"})]
FULL: Calls = [("weather", {"city": "Bern", "days": 5, "exact": True, "hours": [1, 2]})]
CLOCK: Calls = [("clock", {})]
BAR, LOW = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"


def wide(text: str) -> str:
    """Replace ASCII characters by DeepSeek's special ones."""
    return text.replace("|", BAR).replace("_", LOW)


ARGUMENTS = '{"city": "Bern"}'
XML = "<function=weather>\n<parameter=city>\nBern\n</parameter>\n</function>"
XML_FULL = (
    "<function=weather>\n<parameter=city>\nBern\n</parameter>\n<parameter=days>\n5\n</parameter>\n"
    "<parameter=exact>\nTrue\n</parameter>\n<parameter=hours>\n[1, 2]\n</parameter>\n</function>"
)
R1 = f"<|tool_call_begin|>function<|tool_sep|>weather\n```json\n{ARGUMENTS}\n```<|tool_call_end|>"
V31 = f"<|tool_call_begin|>weather<|tool_sep|>{ARGUMENTS}<|tool_call_end|>"
V31_CLOCK = "<|tool_call_begin|>clock<|tool_sep|>{}<|tool_call_end|>"
GPT_OSS = f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}"
INVOKE = '<invoke name="weather">\n<parameter name="city">Bern</parameter>\n</invoke>'
FUNCTION_GEMMA = "<start_function_call>call:weather{city:<escape>Bern<escape>}<end_function_call>"
GEMMA_4 = '<|tool_call>call:weather{city:<|"|>Bern<|"|>}<tool_call|>'

FORMATS: dict[str, tuple[str, Calls]] = {
    "qwen3-coder": (f"<tool_call>\n{XML}\n</tool_call>", BERN),
    "qwen3-coder, every type": (f"<tool_call>\n{XML_FULL}\n</tool_call>", FULL),
    "qwen3-coder, without tags around": (XML, BERN),
    "qwen3-coder, unclosed tags around": (f"<tool_call>\n{XML}", BERN),
    "qwen3-coder, two": (
        f"<tool_call>\n{XML}\n<function=clock>\n</function></tool_call>",
        BERN + CLOCK,
    ),
    "qwen3-coder, one after the other": (
        f"<tool_call>{XML}</tool_call>\n<tool_call><function=clock></function></tool_call>",
        BERN + CLOCK,
    ),
    "qwen3-coder, several lines": (
        "<function=weather><parameter=city>\n a\n</function> {\n\n</parameter></function>",
        [("weather", {"city": " a\n</function> {\n"})],
    ),
    "qwen3-coder, a text of digits": (
        "<function=weather><parameter=city>5</parameter></function>",
        [("weather", {"city": "5"})],
    ),
    "qwen3-coder, unknown": (
        "<function=rocket><parameter=n>5</parameter><parameter=s>five</parameter></function>",
        [("rocket", {"n": 5, "s": "five"})],
    ),
    "glm": (
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n</tool_call>",
        BERN,
    ),
    "glm, on one line": (
        (
            "<tool_call>weather<arg_key>city</arg_key><arg_value>Bern</arg_value><arg_key>days</arg_key>"
            "<arg_value>5</arg_value></tool_call>"
        ),
        [("weather", {"city": "Bern", "days": 5})],
    ),
    "glm, without arguments": ("<tool_call>clock\n</tool_call>", CLOCK),
    "mistral": (f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}", BERN),
    "mistral, two": (
        f"[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]clock[ARGS]{{}}",
        BERN + CLOCK,
    ),
    "mistral, with an id": (f"[TOOL_CALLS]weather[CALL_ID]abc123xyz[ARGS]{ARGUMENTS}", BERN),
    "mistral, without a marker": (f"[TOOL_CALLS]weather{ARGUMENTS}", BERN),
    "mistral, older": (f'[TOOL_CALLS][{{"name": "weather", "arguments": {ARGUMENTS}}}]', BERN),
    "deepseek r1": (wide(f"<|tool_calls_begin|>{R1}<|tool_calls_end|>"), BERN),
    "deepseek r1, two": (
        wide("<|tool_calls_begin|>") + wide(f"{R1}\n{R1}") + wide("<|tool_calls_end|>"),
        BERN * 2,
    ),
    "deepseek v3.1": (
        wide(f"<|tool_calls_begin|>{V31}{V31_CLOCK}<|tool_calls_end|>"),
        BERN + CLOCK,
    ),
    "deepseek, unclosed": (wide(f"<|tool_calls_begin|>{V31}"), BERN),
    "deepseek, without the outer tags": (wide(R1), BERN),
    "deepseek, typed": (f"<|tool_calls_begin|>{V31}<|tool_calls_end|>", BERN),
    "kimi": (
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
            f"<|tool_call_argument_begin|>{ARGUMENTS}<|tool_call_end|><|tool_calls_section_end|>"
        ),
        BERN,
    ),
    "gpt-oss": (f"{GPT_OSS}<|call|>", BERN),
    "gpt-oss, unclosed": (GPT_OSS, BERN),
    "gpt-oss, role ahead": (f"<|start|>assistant{GPT_OSS}<|call|>", BERN),
    "gpt-oss, recipient ahead": (
        (
            "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>"
            f"{ARGUMENTS}<|call|>"
        ),
        BERN,
    ),
    "llama, json": (
        f'<|python_tag|>{{"name": "weather", "parameters": {ARGUMENTS}}}; {{"name": "clock"}}',
        BERN + CLOCK,
    ),
    "llama, its own tools": ('<|python_tag|>weather.call(city="Bern")', BERN),
    "llama, a function": ('<|python_tag|>weather(city="Bern")', BERN),
    "pythonic": ('[weather(city="Bern", days=5, exact=True, hours=[1, 2])]', FULL),
    "pythonic, two": ("[weather(city='Bern'), clock()]", BERN + CLOCK),
    "pythonic, values": (
        "[weather(city='it\\'s \"ä\" \\u00e4\\n', unit=None, a=-1.5e2, b={'x': [()]}, c=1_0,)]",
        [
            (
                "weather",
                {
                    "city": 'it\'s "ä" ä\n',
                    "unit": None,
                    "a": -150.0,
                    "b": {"x": [[]]},
                    "c": 10,
                },
            )
        ],
    ),
    "lfm2": ('<|tool_call_start|>[weather(city="Bern")]<|tool_call_end|>', BERN),
    "a bracket too many": ('<tool_call>{"name": "clock", "arguments": {}}}</tool_call>', CLOCK),
    "brackets too many, two calls": (
        '<tool_call>{"name": "clock"}}}\n{"name": "clock"}]}</tool_call>',
        CLOCK * 2,
    ),
    "a bracket too many, bare": ('{"name": "clock", "arguments": {}}}', CLOCK),
    "a bracket too many, in a fence": ('```json\n{"name": "clock", "arguments": {}}}\n```', CLOCK),
    "a bracket too many, of a list": (f'[{{"name": "weather", "arguments": {ARGUMENTS}}}]]', BERN),
    "llama, a list of JSON": (
        f'<|python_tag|>[{{"name": "weather", "parameters": {ARGUMENTS}}}, {{"name": "clock"}}]',
        BERN + CLOCK,
    ),
    "llama, a list of functions": ('<|python_tag|>[weather(city="Bern"), clock()]', BERN + CLOCK),
    "llama, two functions": ('<|python_tag|>weather.call(city="Bern"); clock.call()', BERN + CLOCK),
    "llama, quoted": (f'<function="weather">{ARGUMENTS}</function>', BERN),
    "qwen3-coder, opened nowhere": (
        "<function=weather><parameter=city>Bern</parameter></function>\n</tool_call>",
        BERN,
    ),
    "qwen3-coder, a parameter unclosed": (
        "<function=weather><parameter=city>Bern<parameter=days>5</parameter></function>",
        [("weather", {"city": "Bern", "days": 5})],
    ),
    "gpt-oss, recipient first": (
        f"to=functions.weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>",
        BERN,
    ),
    "gpt-oss, channel twice": (
        (
            "<|start|>assistant<|channel|>commentary to=functions.weather<|channel|>commentary json"
            f"<|message|>{ARGUMENTS}<|call|>"
        ),
        BERN,
    ),
    **{
        f"in {tag}": (f'<{tag}>[{{"name": "weather", "args": {ARGUMENTS}}}]</{tag}>', BERN)
        for tag in ("tool_calls", "function_call", "functioncall", "TOOLCALL")
    },
    **{
        f"ahead of {mark}": (f'<tool_call>{{"name": "clock"}}</tool_call>\n{mark}', CLOCK)
        for mark in ("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "</s>", wide("<|end_of_sentence|>"))
    },
    "half a surrogate pair": (
        '<tool_call>{"name": "weather", "arguments": {"city": "\\ud83d"}}</tool_call>',
        [("weather", {"city": "\ufffd"})],
    ),
    "half a surrogate pair, pythonic": (
        "[weather(city='\\ud83d')]",
        [("weather", {"city": "\ufffd"})],
    ),
    "invoke": (INVOKE, BERN),
    "invoke, in single quotes": (INVOKE.replace('"', "'"), BERN),
    "invoke, grouped": (f"<function_calls>\n{INVOKE}\n</function_calls>", BERN),
    "invoke, closed only": (f"{INVOKE}\n</function_calls>", BERN),
    "invoke, unclosed group": (f"<function_calls>\n{INVOKE}", BERN),
    "invoke, two": (f'{INVOKE}\n<invoke name="clock">\n</invoke>', BERN + CLOCK),
    "minimax": (
        (
            f'<minimax:tool_call>\n{INVOKE}\n<invoke name="rocket"><parameter name="n">5'
            "</parameter></invoke>\n</minimax:tool_call>"
        ),
        [*BERN, ("rocket", {"n": 5})],
    ),
    "minimax, every type": (
        (
            '<minimax:tool_call><invoke name="weather">\n'
            '<parameter name="city">Bern</parameter>\n'
            '<parameter name="days">5</parameter>\n'
            '<parameter name="exact">true</parameter>\n'
            '<parameter name="hours">[1, 2]</parameter>\n'
            "</invoke></minimax:tool_call>"
        ),
        FULL,
    ),
    "internlm": (
        (
            f'<|action_start|><|plugin|>\n{{"name": "weather", "parameters": {ARGUMENTS}}}'
            "<|action_end|>"
        ),
        BERN,
    ),
    "functiongemma": (FUNCTION_GEMMA, BERN),
    "functiongemma, two": (
        (
            f"{FUNCTION_GEMMA}<start_function_call>call:clock{{}}<end_function_call>"
            "<start_function_response>"
        ),
        BERN + CLOCK,
    ),
    "functiongemma, unclosed": (FUNCTION_GEMMA.removesuffix("<end_function_call>"), BERN),
    "functiongemma, values": (
        (
            "<start_function_call>call:rocket{a:-1.5,b:true,c:null,d:[<escape>x, {y}<escape>,2],"
            "e:{f:<escape><escape>},g:[],h:two words}<end_function_call>"
        ),
        [
            (
                "rocket",
                {
                    "a": -1.5,
                    "b": True,
                    "c": None,
                    "d": ["x, {y}", 2],
                    "e": {"f": ""},
                    "g": [],
                    "h": "two words",
                },
            )
        ],
    ),
    "functiongemma, a number as text": (
        "<start_function_call>call:weather{days:<escape>5<escape>}<end_function_call>",
        [("weather", {"days": 5})],
    ),
    "gemma 4": (GEMMA_4, BERN),
    "gemma 4, every type": (
        '<|tool_call>call:weather{city:<|"|>Bern<|"|>,days:5,exact:true,hours:[1,2]}<tool_call|>',
        FULL,
    ),
    "gemma 4, in JSON quotes": (
        '<|tool_call> call: weather {"city": "Bern"} <tool_call|><|tool_response>',
        BERN,
    ),
    "tool_code": ('```tool_code\nweather(city="Bern")\n```', BERN),
    "tool_code, printed": ("```tool_code\nprint(weather(city='Bern'))\n```", BERN),
    "tool_code, two": ('```tool_code\nweather(city="Bern")\nclock()\n```', BERN + CLOCK),
    "tool_code, a list": ('```tool_code\n[weather(city="Bern"), clock()]\n```', BERN + CLOCK),
    "tool_code, JSON": (
        f'```tool_code\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n```',
        BERN,
    ),
    "a bracket too many, llama": ("<function=clock>{}}</function>", CLOCK),
}

TEXTS = (
    "<tool_call>rocket</tool_call>",
    "<tool_call> is a tag",
    "<function=weather> <parameter> is XML",
    "[TOOL_CALLS]weather is a call",
    "[TOOL_CALLS]rocket{}",
    "[weather]",
    "[weather(city)]",
    "[weather('Bern')]",
    '[weather(city="Bern"), rocket()]',
    "[rocket(city=1)]",
    "[clock() for x in y]",
    "[clock(), ",
    "[weather(city=Bern)]",
    'See [weather(city="Bern")]',
    "<|python_tag|>print(1)",
    "<|python_tag|>weather = 1",
    "<|channel|>analysis<|message|>Hm.<|end|>",
    "<|channel|>commentary to=somebody<|message|>{}",
    "<|start|>assistant says",
    "<|tool_calls_begin|> is a marker",
    wide("<|tool_calls"),
    "<|tool_call_start|>[rocket()]",
    "[1, 2](3)",
    "to=functions",
    "to=functions.weather is said",
    "to=nobody<|channel|>commentary<|message|>{}",
    "<function_call> is a tag",
    "<TOOLCALL>",
    '<invoke name="rocket"><parameter name="n">5</parameter></invoke>',
    '<invoke name="weather" when="now">',
    "<invoke> is a tag",
    "<function_calls> is a tag",
    "<minimax:tool_call>",
    "<|action_start|><|interpreter|>\nprint(1)<|action_end|>",
    "<|action_start|> is a marker",
    "<start_function_call> is a marker",
    "<start_function_call>call:weather is a call",
    "<start_function_declaration>declaration:weather{}<end_function_declaration>",
    "<end_of_turn>",
    "<|tool_call>weather",
    "```tool_code\nprint(1)\n```",
    "```tool_code\nx = weather(city='Bern')\n```",
    "```tool_code\nweather('Bern')\n```",
    "```tool_code\nrocket(n=1)\n```",
    "```tool_code\nweather(city='Bern')\nrocket()\n```",
    "```tool_code\nprint(weather(city='Bern'), 1)\n```",
    "```tool_code\n[rocket()]\n```",
    "```python\nweather(city='Bern')\n```",
    "Write ```tool_code\nweather(city='Bern')\n```",
    "```tool_code",
    "</s>",
    "<|eot_id|>",
    "function",
    "fun",
    "to",
)

MALFORMED = (
    "<function=weather><parameter=city>Be",
    "<function=weather><parameter=city>Bern</parameter>",
    "<function=weather><parameter=city>Bern</parameter> and so on</function>",
    "<tool_call>weather<arg_key>city</arg_key><arg_value>Be",
    "<tool_call>weather<arg_key>city</arg_key>Bern</tool_call>",
    '[TOOL_CALLS]weather[ARGS]{"city": "Be',
    "[TOOL_CALLS]weather[ARGS]Bern.",
    "[TOOL_CALLS]weather[ARGS]{oops}",
    wide("<|tool_calls_begin|><|tool_call_begin|>weather<|tool_sep|>") + '{"city',
    wide("<|tool_call_begin|>function<|tool_sep|>"),
    '<|channel|>commentary to=functions.weather<|message|>{"city": "Be',
    "<|channel|>commentary to=functions.weather<|message|>Bern",
    '<|python_tag|>{"name": "weather", "para',
    '<tool_call>{"name": "weather", "city": "Bern"}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"days": 1e999}}</tool_call>',
    '<tool_calls>{"name": "weather"',
    '<invoke name="weather"><parameter name="city">Be',
    '<invoke name="weather">Bern</invoke>',
    '<function_calls><invoke name="rocket">',
    '<|action_start|><|plugin|>{"name": "weather", "para',
    "<|action_start|><|plugin|><|action_end|>",
    "<start_function_call>call:weather{city:<escape>Be",
    "<start_function_call>call:weather{city}<end_function_call>",
    "<start_function_call>call:weather{city:<escape>a<escape>b}<end_function_call>",
    f"<start_function_call>call:weather{{a:{'[' * 40}",
    '<|tool_call>call:weather{city:<|"|>Be',
)


def found_in(*pieces: str) -> tuple[str, Calls]:
    finder = ToolCallParser(TOOLS)
    found = [each for piece in pieces for each in finder.feed(piece)]
    found += finder.finish()
    calls = [each for each in found if isinstance(each, ToolCall)]
    parsed = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
    return "".join(each for each in found if isinstance(each, str)), parsed


@pytest.mark.parametrize("form", FORMATS)
def test_call_is_found_in_every_format(form: str) -> None:
    text, expected = FORMATS[form]
    assert found_in(text) == ("", expected)
    assert found_in(*text) == ("", expected)
    assert found_in("Let me see.\n", text, "\nDone.") == ("Let me see.\nDone.", expected)


@given(form=st.sampled_from(sorted(FORMATS)), cuts=st.lists(st.integers(0, 300), max_size=9))
def test_any_split_gives_the_same_call(form: str, cuts: list[int]) -> None:
    text, expected = FORMATS[form]
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    assert found_in(*(text[a:b] for a, b in itertools.pairwise(places))) == ("", expected)


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_resembles_a_call_stays_text(text: str) -> None:
    assert found_in(text) == (text, [])
    assert found_in(*text) == (text, [])


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("pieces", ["whole", "characters"])
def test_unreadable_marked_call_is_malformed(text: str, pieces: str) -> None:
    with pytest.raises(MalformedCall) as caught:
        found_in(*([text] if pieces == "whole" else text))
    assert caught.value.text
    assert text.startswith(caught.value.text)


@given(st.text(alphabet="<>[](){}|=\"'\\`tool_calsfuncweather:, \n" + BAR, max_size=60))
def test_no_text_is_lost(text: str) -> None:
    try:
        content, calls = found_in(*text)
    except MalformedCall:
        return
    if not calls:
        assert content == text


def test_tool_code_may_end_with_the_answer() -> None:
    text = '```tool_code\nweather(city="Bern")\n'
    assert found_in(text) == ("", BERN)
    assert found_in(*text) == ("", BERN)
    assert found_in(text, "Then we look.") == (f"{text}Then we look.", [])


def test_without_tools_everything_is_text() -> None:
    request = ChatRequest(messages=(Message("user", "x"),))
    stream = ChatStream("m")
    assert add_tool_recovery(stream, "m", request) is stream


def test_schemas_give_arguments_their_types() -> None:
    tool = ToolDefinition(name="weather", parameters=TOOLS["weather"])
    request = ChatRequest(messages=(Message("user", "x"),), tools=(tool,))
    decoder = add_tool_recovery(ChatStream("m"), "m", request)
    chunks = [*decoder.feed(make_stream(XML_FULL, "stop"))]
    (call,) = [call for chunk in chunks for call in chunk.tool_calls]
    assert json.loads(call.function.arguments) == FULL[0][1]


def make_stream(text: str, reason: str) -> bytes:
    events: list[dict[str, Any]] = [
        {"delta": {"content": text}},
        {"delta": {}, "finish_reason": reason},
    ]
    data = [json.dumps({"choices": [choice]}) for choice in events]
    return "".join(f"data: {each}\n\n" for each in [*data, "[DONE]"]).encode()


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "weather", "arguments": {"city": "Be',
        "<function=weather><parameter=city>Be",
        '[TOOL_CALLS]weather[ARGS]{"city": "Be',
    ],
)
@pytest.mark.parametrize(("reason", "expected"), [("length", "length"), ("stop", None)])
def test_truncated_call_is_reported(text: str, reason: str, expected: str | None) -> None:
    decoder = ToolCallRecovery(ChatStream("m"), "m", TOOLS)
    with pytest.raises(ToolCallError) as caught:
        list(decoder.feed(make_stream(text, reason)))
    assert caught.value.finish_reason == expected
    assert caught.value.text == text
    assert ("maximum length" in str(caught.value)) == (reason == "length")


def test_truncated_native_call_is_reported() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": '{"city": "Be'}}
    events: list[dict[str, Any]] = [
        {"delta": {"tool_calls": [call]}},
        {"delta": {}, "finish_reason": "length"},
    ]
    stream = b"".join(f"data: {json.dumps({'choices': [each]})}\n\n".encode() for each in events)
    decoder = ToolCallRecovery(ChatStream("m"), "m", TOOLS)
    with pytest.raises(ToolCallError, match="max_tokens") as caught:
        list(decoder.feed(stream + b"data: [DONE]\n\n"))
    assert (caught.value.finish_reason, caught.value.text) == ("length", '{"city": "Be')


UNITS = [
    *(
        "<function=weather>",
        "<function=weather>\n<parameter=city>",
        "<tool_call>weather\n<arg_key>",
    ),
    *(
        "[TOOL_CALLS]weather",
        "\n[weather(city='",
        "\n[weather(city=[",
        "\n[clock(),",
        "\n[weather(",
    ),
    *(
        "<|channel|>",
        "<|channel|>commentary to=functions.",
        "<|python_tag|>",
        "<|tool_calls_begin|>",
    ),
    *(wide("<|tool_calls_begin|>"), "<|start|>assistant", "<|tool_call_start|>[", "<|", "<", "["),
    *(
        '<invoke name="weather">',
        '<invoke name="weather"><parameter name="city">',
        "<function_calls>",
        '<function_calls><invoke name="',
        "<minimax:tool_call>",
    ),
    *(
        "<start_function_call>call:weather{a:",
        "<start_function_call>call:weather{a:<escape>x",
        '<|tool_call>call:weather{a:<|"|>',
        "<|tool_call>",
        "<|action_start|><|plugin|>",
        "<|action_start|>",
    ),
    *(
        "\n```tool_code\nclock()",
        "\n```tool_code\n",
        "\n```tool_code\n[clock(),",
        "\n```tool_code\nprint(",
    ),
    *("\nto=functions.weather<|channel|>", "<TOOLCALL>", "fu", '\n{"id":', '\n[{"name":'),
]


def seconds(text: str) -> float:
    started = time.process_time()
    with contextlib.suppress(MalformedCall):
        found_in(*(text[at : at + 16] for at in range(0, len(text), 16)))
    return time.process_time() - started


@pytest.mark.parametrize("unit", UNITS)
def test_endless_beginnings_take_little_time(unit: str) -> None:
    """Parsing from every possible beginning to the end would take many seconds."""
    assert seconds((unit * 2**15)[: 2**15]) < 1
