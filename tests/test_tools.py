"""Tool runs and their limits, with a scripted service."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from foundry_api import (
    Chunk,
    DeadlineExceeded,
    FoundryAPIClient,
    FunctionCall,
    InvalidRequest,
    MaxTurnsExceeded,
    MemoryCache,
    Message,
    ToolCall,
    ToolCallError,
    ToolDefinition,
    ToolDefinitionError,
    ToolFailed,
    ToolMarkersMissing,
    ToolResult,
    ToolRun,
    Usage,
    tool,
)
from foundry_api.testing import ErrorReply, FakeService, Reply, ToolCalls
from foundry_api.tools.definition import require_callable
from foundry_api.tools.executor import ToolExecutor, ToolLimits

NO_MARKERS = ErrorReply(
    500, "structured tool calling requires model-published opening and closing tool markers"
)


@dataclass
class Place:
    city: str


def calculate(expression: str) -> float:
    """Work out a sum.

    Args:
        expression: Such as 6 * 7.
    """
    left, _, right = expression.partition("*")
    return float(left) * float(right)


async def clock(place: Place) -> str:
    """Tell the time of a place."""
    return f"Noon in {place.city}"


SUM = ToolCalls([("calculate", {"expression": "6 * 7"})])
BOTH = ToolCalls(
    [("calculate", {"expression": "6 * 7"}), ("clock", {"place": {"city": "Bern"}})], "Let me see. "
)


def make_client(service: FakeService, **options: Any) -> FoundryAPIClient:
    return FoundryAPIClient(service.base_url, model="fake", max_retries=0, **options)


async def run_script(*script: Any, tools: Any = (calculate, clock), **options: Any) -> ToolRun:
    """Run tools with a service that answers from a script."""
    async with FakeService(*script) as service, make_client(service) as client:
        return await client.run_tools("What?", tools, **options)


async def test_run_sends_tool_results_to_the_model() -> None:
    async with FakeService(BOTH, "It is 42 at noon.") as service, make_client(service) as client:
        run = await client.run_tools("What?", [calculate, clock])
    assert run.content == run.completion.content == "It is 42 at noon."
    assert [(call.name, call.arguments, call.value) for call in run.calls] == [
        ("calculate", {"expression": "6 * 7"}, 42.0),
        ("clock", {"place": {"city": "Bern"}}, "Noon in Bern"),
    ]
    assert [call.content for call in run.calls] == ["42.0", "Noon in Bern"]
    assert all(call.error is None and call.duration_s >= 0 for call in run.calls)
    assert (run.turns, {call.turn for call in run.calls}) == (2, {1})
    assert run.usage == Usage(0, 10, 10)
    assert [message.role for message in run.messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    first, second = service.requests
    assert [item["function"]["name"] for item in first["tools"]] == ["calculate", "clock"]
    assert second["messages"][1]["content"] == "Let me see. "
    assert [item.get("tool_call_id") for item in second["messages"]] == [
        None,
        None,
        "call_1",
        "call_2",
    ]


async def test_run_can_be_continued() -> None:
    async with FakeService(SUM, "42.", "Yes.") as service, make_client(service) as client:
        run = await client.run_tools([{"role": "user", "content": "What?"}], [calculate])
        run = await client.run_tools([*run.messages, Message("user", "Sure?")], [calculate])
    assert run.content == "Yes."
    assert len(service.requests[-1]["messages"]) == 5


async def test_run_without_a_call_has_one_turn() -> None:
    run = await run_script("Hello")
    assert (run.content, run.turns, run.calls) == ("Hello", 1, ())


async def test_stream_has_the_chunks_and_results_of_all_turns() -> None:
    async with FakeService(BOTH, "All done.") as service, make_client(service) as client:
        pieces = [piece async for piece in client.stream_run_tools("What?", [calculate, clock])]
    text = "".join(piece.content for piece in pieces if isinstance(piece, Chunk))
    assert text == "Let me see. All done."
    kinds = [type(piece).__name__ for piece in pieces]
    assert kinds[-1] == "ToolRun"
    first = kinds.index("ToolResult")
    assert kinds[first : first + 3] == ["ToolResult", "ToolResult", "Chunk"]
    assert [piece.name for piece in pieces if isinstance(piece, ToolResult)] == [
        "calculate",
        "clock",
    ]
    run = pieces[-1]
    assert isinstance(run, ToolRun)
    assert (run.content, run.turns, run.completion.service_generation) == (
        "All done.",
        2,
        "sdk-2.1",
    )


async def test_closing_a_stream_early_stops_the_run() -> None:
    async with FakeService(BOTH, "All done.") as service, make_client(service) as client:
        stream = client.stream_run_tools("What?", [calculate, clock])
        async for _ in stream:
            break
        await stream.aclose()
    assert len(service.requests) == 1


async def test_parallel_calls_are_limited() -> None:
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    calls = ToolCalls([("work", {"number": number}) for number in range(9)])
    run = await run_script(calls, "Done.", tools=[work], parallel=3)
    assert [call.value for call in run.calls] == list(range(9))
    assert most == 3


async def test_plain_function_does_not_block_the_event_loop() -> None:
    """The function waits for a callback of the loop."""
    loop = asyncio.get_running_loop()

    def wait() -> str:
        done = threading.Event()
        loop.call_soon_threadsafe(done.set)
        return "free" if done.wait(10) else "blocked"

    run = await run_script(ToolCalls([("wait", {})]), "Done.", tools=[wait])
    assert run.calls[0].value == "free"


@pytest.mark.parametrize(
    ("calls", "error", "expected"),
    [
        (("launch_rocket", {}), LookupError, "no tool launch_rocket. There are: calculate, clock."),
        (("calculate", {}), ValueError, "missing required field `expression`"),
        (("calculate", {"expression": 6}), ValueError, "Expected `str`, got `int`"),
        (("calculate", {"expression": "a * b"}), ValueError, "calculate failed: ValueError: "),
        (("clock", {"place": {}}), ValueError, r"missing required field `city` - at `$.place`"),
    ],
)
async def test_errors_are_returned_to_the_model(
    calls: tuple[str, dict[str, Any]], error: type[Exception], expected: str
) -> None:
    async with FakeService(ToolCalls([calls]), "Sorry.") as service, make_client(service) as client:
        run = await client.run_tools("What?", [calculate, clock])
    assert run.content == "Sorry."
    assert isinstance(run.calls[0].error, error)
    content = service.requests[1]["messages"][-1]["content"]
    assert content == run.calls[0].content
    assert content.startswith("Error: ")
    assert expected in content


async def test_error_of_invalid_arguments_has_the_schema() -> None:
    run = await run_script(ToolCalls([("calculate", {"sum": "1"})]), "Sorry.")
    assert '"required":["expression"]' in run.calls[0].content


async def test_timeout_is_returned_to_the_model() -> None:
    cancelled = asyncio.Event()

    async def sleep() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    run = await run_script(ToolCalls([("sleep", {})]), "Sorry.", tools=[sleep], tool_timeout=0.01)
    assert run.calls[0].content == "Error: sleep took longer than 0.01 s."
    assert isinstance(run.calls[0].error, TimeoutError)
    assert cancelled.is_set()


async def test_timeout_error_of_the_tool_itself() -> None:
    def fetch() -> None:
        raise TimeoutError("the database sleeps")

    run = await run_script(ToolCalls([("fetch", {})]), "Sorry.", tools=[fetch])
    assert run.calls[0].content == "Error: fetch failed: TimeoutError: the database sleeps"


async def test_on_error_raise() -> None:
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ToolFailed, match="divide failed: ZeroDivisionError") as caught:
        await run_script(ToolCalls([("divide", {})]), "No.", tools=[divide], on_error="raise")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.call
    assert caught.value.call.function.name == "divide"
    assert caught.value.run
    assert len(caught.value.run.calls) == 1
    assert caught.value.model == "fake:1"


async def test_max_turns() -> None:
    with pytest.raises(MaxTurnsExceeded, match=r"still calls calculate after 3 turns") as caught:
        await run_script(SUM, max_turns=3)
    run = caught.value.run
    assert run
    assert (run.turns, len(run.calls), run.messages[-1].role) == (3, 2, "assistant")
    assert run.messages[-1].tool_calls == run.completion.tool_calls


async def test_deadline_applies_to_the_run() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="calling tools"):
        await run_script(ToolCalls([("forever", {})]), tools=[forever], deadline=0.3)


async def test_cancelled_run_cancels_its_tools() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(run_script(ToolCalls([("forever", {})]), tools=[forever]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, [None, None]),
        ("auto", ["auto", None]),
        ("required", ["required", None]),
        ("calculate", [{"type": "function", "function": {"name": "calculate"}}, None]),
    ],
)
async def test_tool_choice_applies_to_the_first_turn(choice: str | None, sent: Any) -> None:
    async with FakeService(SUM, "42.") as service, make_client(service) as client:
        await client.run_tools("What?", [calculate], tool_choice=choice)
    assert [request.get("tool_choice") for request in service.requests] == sent


async def test_tool_choice_none_sends_no_tools() -> None:
    async with FakeService("42.") as service, make_client(service) as client:
        await client.complete("What?", tools=[calculate], tool_choice="none")
    assert service.requests[0].keys().isdisjoint({"tools", "tool_choice"})


async def test_malformed_call_is_requested_again() -> None:
    wrong = 'Hm. <tool_call>{"name": "calculate", "arguments": {</tool_call>'
    async with FakeService(wrong, SUM, "42.") as service, make_client(service) as client:
        run = await client.run_tools("What?", [calculate])
    assert (run.content, run.turns) == ("42.", 3)
    _, assistant, correction = service.requests[1]["messages"]
    assert wrong.startswith(assistant["content"])
    assert correction["role"] == "user"
    assert "could not be read" in correction["content"]


@pytest.mark.parametrize("options", [{"on_error": "raise"}, {"max_turns": 1}])
async def test_malformed_call_is_an_error_at_the_limit(options: dict[str, Any]) -> None:
    with pytest.raises(ToolCallError) as caught:
        await run_script('<tool_call>{"name"}</tool_call>', **options)
    assert caught.value.text.startswith("<tool_call>")


async def test_malformed_call_of_complete_is_an_error() -> None:
    script = ('Hm. {"name": "x"} <tool_call>{"name"}</tool_call>', SUM)
    async with FakeService(*script) as service, make_client(service) as client:
        with pytest.raises(ToolCallError) as caught:
            await client.complete("What?", tools=[calculate])
        assert caught.value.partial == 'Hm. {"name": "x"} '
        completion = await client.complete("What?", tools=[calculate])
    assert completion.finish_reason == "tool_calls"
    (call,) = completion.tool_calls
    assert call.function.name == "calculate"
    assert msgspec.json.decode(call.function.arguments) == {"expression": "6 * 7"}


async def test_model_without_markers_gets_the_tools_in_the_prompt() -> None:
    text = '<tool_call>{"name": "calculate", "arguments": {"expression": "2*3"}}</tool_call>'
    script = (NO_MARKERS, text, NO_MARKERS, "6.")
    async with FakeService(*script) as service, make_client(service) as client:
        run = await client.run_tools("What?", [calculate])
    assert (run.content, run.calls[0].value) == ("6.", 6.0)
    native, prompted, *_, last = service.requests
    assert native["tools"]
    assert "tools" not in prompted
    assert '"calculate"' in prompted["messages"][0]["content"]
    assert last["messages"][-1] == {"role": "user", "content": "calculate returned:\n6.0"}


async def test_required_tool_choice_without_markers_is_an_error() -> None:
    with pytest.raises(ToolMarkersMissing):
        await run_script(NO_MARKERS, tool_choice="required")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", '""'),
        (None, "null"),
        ({"a": [1, 2.5]}, '{"a":[1,2.5]}'),
        (Place("Bern"), '{"city":"Bern"}'),
        ("a\0b\ud800", "a\N{REPLACEMENT CHARACTER}b?"),
        (1 + 2j, '"(1+2j)"'),
    ],
)
async def test_content_of_tool_values(value: Any, expected: str) -> None:
    @tool(name="give", parameters={"type": "object", "properties": {}})
    def give() -> Any:
        return value

    run = await run_script(ToolCalls([("give", {})]), "Done.", tools=[give])
    assert run.calls[0].content == expected


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("max_turns", {"max_turns": 0}),
        ("max_turns", {"max_turns": 1.5}),
        ("parallel", {"parallel": True}),
        ("tool_timeout", {"tool_timeout": 0}),
        ("tool_timeout", {"tool_timeout": "x"}),
        ("on_error", {"on_error": "ignore"}),
        ("tool_choice", {"tool_choice": "clocks"}),
        ("tool_choice", {"tools": [], "tool_choice": "required"}),
        ("tools", {"tools": calculate}),
        ("tools[1]", {"tools": [calculate, ToolDefinition(name="x")]}),
        ("temperature", {"temperature": 9}),
    ],
)
async def test_invalid_arguments_are_rejected_before_sending(
    field: str, options: dict[str, Any]
) -> None:
    async with FakeService("No.") as service, make_client(service) as client:
        tools = options.pop("tools", [calculate])
        with pytest.raises(InvalidRequest) as caught:
            await client.run_tools("What?", tools, **options)
        with pytest.raises(InvalidRequest):
            client.stream_run_tools("What?", tools, **options)
    assert caught.value.field == field
    assert not service.requests


async def test_invalid_tools_are_rejected_before_sending() -> None:
    def wrong(*numbers: int) -> None: ...

    async with FakeService("No.") as service, make_client(service) as client:
        with pytest.raises(ToolDefinitionError) as caught:
            await client.complete("What?", tools=[wrong])
    assert caught.value.field == "numbers"
    assert not service.requests


async def test_truncated_answer_ends_the_run() -> None:
    run = await run_script(Reply("Half a sent", finish_reason="length"))
    assert (run.content, run.completion.finish_reason) == ("Half a sent", "length")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("{oops", "are not JSON"), ("[1]", "are not a JSON object"), ("3", "are not a JSON object")],
)
async def test_arguments_that_are_not_an_object(arguments: str, expected: str) -> None:
    """A service passes on whatever the model wrote."""
    limits = ToolLimits(max_turns=1, parallel=1, tool_timeout=1, on_error="return")
    caller = ToolExecutor(require_callable([clock]), limits, time.monotonic)
    call = ToolCall("call_1", FunctionCall("clock", arguments))
    (result,) = await caller.execute([call], 1)
    assert expected in result.content
    assert result.arguments is None
    assert isinstance(result.error, ValueError)


async def test_turns_are_cached() -> None:
    """Each turn is cached like any other call. The tools are called again."""
    async with (
        FakeService(BOTH, "All done.") as service,
        make_client(service, cache=MemoryCache()) as client,
    ):
        runs = [
            await client.run_tools("What?", [calculate, clock], temperature=0) for _ in range(2)
        ]
        stream = client.stream_run_tools("What?", [calculate, clock], temperature=0)
        pieces = [piece async for piece in stream]
    assert len(service.requests) == 2
    assert [run.content for run in runs] == ["All done."] * 2
    assert [len(run.calls) for run in runs] == [2, 2]
    last = pieces[-1]
    assert isinstance(last, ToolRun)
    assert (last.content, last.completion.cached, len(last.calls)) == ("All done.", True, 2)
