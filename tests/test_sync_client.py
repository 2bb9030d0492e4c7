"""`FoundryClient` on the real engine: the calls of `FoundryAPIClient` for synchronous code."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import HOME
from foundry_api import (
    ClientClosed,
    DeadlineExceeded,
    FirstToken,
    FoundryClient,
    InvalidRequest,
    MemoryCache,
    Message,
    deadline,
)
from service.helpers import list_hosts, start_program, wait_until
from support.scripted_model import build, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psutil

    from foundry_api.engine.endpoint import Endpoint

HELLO = script("say-hello").text

posix = pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a POSIX signal")


@pytest.fixture
def client(engine: Endpoint) -> Iterator[FoundryClient]:
    """A client of the run's engine."""
    with FoundryClient(home=Path(os.environ[HOME]), model="scripted", max_retries=0) as client:
        yield client


def test_a_completion_has_text_model_and_usage(client: FoundryClient) -> None:
    response = client.complete("say-hello", system="Be brief.")

    assert response.content == HELLO
    assert response.model == "scripted:1"
    assert response.usage.completion_tokens == len(HELLO)


def test_a_stream_is_a_plain_iterator(client: FoundryClient) -> None:
    *chunks, last = client.stream_chat([Message("user", "say-multibyte")])

    assert "".join(chunk.content for chunk in chunks) == script("say-multibyte").text
    assert last.finish_reason == "stop"


def test_several_threads_share_one_client(client: FoundryClient) -> None:
    keywords = ["say-hello", "say-json", "say-lines", "say-long"] * 10

    def stream(keyword: str) -> str:
        return "".join(chunk.content for chunk in client.stream_complete(keyword))

    def complete(keyword: str) -> str:
        return client.complete(keyword).content

    with ThreadPoolExecutor(40) as pool:
        completed, streamed = pool.map(complete, keywords), pool.map(stream, keywords)
        texts = [script(keyword).text for keyword in keywords]
        assert list(completed) == list(streamed) == texts


async def test_the_client_works_inside_a_running_event_loop(client: FoundryClient) -> None:
    """As in a notebook, whose cells run in an event loop."""
    assert client.complete("say-hello").content == HELLO
    assert "".join(chunk.content for chunk in client.stream_complete("say-hello")) == HELLO


def test_models_capabilities_and_health_are_available(client: FoundryClient) -> None:
    assert {"demo", "scripted"} <= {model.alias for model in client.models.list()}
    assert client.models.load("scripted").id == "scripted:1"
    assert client.capabilities().service_generation == "sdk-2.1"
    assert client.health_check().status == "healthy"


def test_invalid_arguments_of_a_stream_fail_at_once(client: FoundryClient) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.stream_complete("Hello", temperature=3)
    assert caught.value.field == "temperature"


def test_an_answer_comes_from_the_cache(engine: Endpoint) -> None:
    home = Path(os.environ[HOME])
    with FoundryClient(home=home, model="scripted", cache=MemoryCache()) as client:
        first, second = (client.complete("say-hello", temperature=0) for _ in range(2))
        assert (first.cached, second.cached) == (False, True)
        assert (client.cache.stats().hits, client.cache.clear()) == (1, 1)


def test_an_answer_is_parsed(client: FoundryClient) -> None:
    answer = client.complete("say-json", choice=["yes", "no"])
    assert answer.parsed in {"yes", "no"}


def test_the_other_endpoints_are_available(client: FoundryClient) -> None:
    assert len(client.embed(["one", "two"], model="demo").vectors) == 2
    assert client.request("GET", "/status").status == 200
    with client.responses.conversation(model="demo") as conversation:
        first = conversation.send("Hello", max_output_tokens=5)
        assert conversation.last == first
        *_, last = conversation.stream("And then?", max_output_tokens=5)
    assert last.response
    assert last.response.previous_response_id == first.id


def test_a_tool_can_use_the_client(client: FoundryClient) -> None:
    """Plain functions run in worker threads, not in the client's thread."""

    def calculate(expression: str) -> str:
        """Work out a sum."""
        return f"{expression}: {client.complete('say-hello').content}"

    run = client.run_tools("call-calculator", [calculate], max_tokens=200, on_error="raise")

    assert [call.content for call in run.calls] == [f"6 * 7: {HELLO}"]


def test_the_deadline_of_the_calling_thread_applies(client: FoundryClient) -> None:
    with deadline(0.3), pytest.raises(DeadlineExceeded):
        client.complete("say-slowly")
    with deadline(0.3), pytest.raises(DeadlineExceeded):
        list(client.stream_complete("say-slowly"))
    assert client.complete("say-hello").content == HELLO


def test_a_listener_that_calls_the_client_gets_an_error(
    client: FoundryClient,
) -> None:
    messages: list[str] = []

    def listener(_event: FirstToken) -> None:
        with pytest.raises(InvalidRequest) as caught:
            client.complete("say-hello")
        messages.append(str(caught.value))

    client.events.subscribe(listener, FirstToken)

    assert client.complete("say-hello").content == HELLO
    assert messages[0].startswith("a callback of a FoundryClient called that client")


def test_a_closed_client_raises_client_closed(client: FoundryClient) -> None:
    client.close()
    for call in (client.complete, client.stream_complete, client.models.show):
        with pytest.raises(ClientClosed):
            call("say-hello")  # type: ignore[operator] # each takes a text


# With an own engine


@pytest.fixture
def embedded_client(own_home: Path, tmp_path: Path) -> Iterator[FoundryClient]:
    """A client with its own engine, on which the scripted model is loaded."""
    build(tmp_path / "scripted")
    with FoundryClient(service="embedded", home=own_home, model="scripted") as client:
        client.models.register(tmp_path / "scripted", "scripted")
        client.complete("say-hello")
        yield client
    assert not list_hosts(own_home)


def break_out(client: FoundryClient) -> None:
    for _ in client.stream_complete("say-at-a-crawl"):
        break


def close(client: FoundryClient) -> None:
    stream = client.stream_complete("say-at-a-crawl")
    next(stream)
    stream.close()


def drop(client: FoundryClient) -> None:
    next(client.stream_complete("say-at-a-crawl"))


def get_cpu_s(engine: psutil.Process) -> float:
    times = engine.cpu_times()
    return times.user + times.system


@pytest.mark.parametrize("abandon_stream", [break_out, close, drop])
def test_an_abandoned_stream_frees_the_engine(
    embedded_client: FoundryClient, own_home: Path, abandon_stream: Callable[[FoundryClient], None]
) -> None:
    """The engine is idle when it uses less than 50 ms of CPU time; a token takes 150 ms."""
    (engine,) = list_hosts(own_home)
    abandon_stream(embedded_client)

    def is_idle() -> bool:
        before = get_cpu_s(engine)
        embedded_client.models.cached()
        return (
            get_cpu_s(engine) - before < 0.05
            and embedded_client.limiter.statistics().in_flight == 0
        )

    wait_until(is_idle)


PROGRAM = """
import sys
from pathlib import Path
from foundry_api import FoundryClient

client = FoundryClient(service="embedded", home=Path(sys.argv[1]), model=sys.argv[2])
"""


@posix
@pytest.mark.parametrize(
    "call", ["client.complete('say-slowly')", "list(client.stream_complete('say-slowly'))"]
)
def test_ctrl_c_ends_the_call_and_frees_the_engine(
    own_home: Path, tmp_path: Path, call: str
) -> None:
    build(tmp_path / "scripted")
    source = f"""
import signal
client.models.register(sys.argv[3], "scripted")
client.complete("say-hello")
print("ready", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print(client.limiter.statistics().in_flight, client.complete("say-hello").content)
    raise
"""
    arguments = (str(own_home), "scripted", str(tmp_path / "scripted"))
    with start_program(PROGRAM + source, *arguments) as program:
        assert program.stdout
        assert program.stdout.readline() == "ready\n"
        (engine,) = list_hosts(own_home)
        before = get_cpu_s(engine)
        wait_until(lambda: get_cpu_s(engine) > before + 0.3)
        program.send_signal(signal.SIGINT)
        stdout, stderr = program.communicate(timeout=30)
    assert stdout == f"0 {HELLO}\n"
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert "Warning" not in stderr
    assert not list_hosts(own_home)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("stream = client.stream_complete('Write a story'); next(stream)", 0),
        ("sys.exit(3)", 3),
        ("del client", 0),
    ],
    ids=["open client", "open stream", "exit", "dropped client"],
)
def test_a_program_without_close_exits_without_output(
    own_home: Path, ending: str, code: int
) -> None:
    source = f"client.complete('Hello', max_tokens=5)\n{ending}\n"
    with start_program(PROGRAM + source, str(own_home), "demo") as program:
        stdout, stderr = program.communicate(timeout=30)
    assert (stdout, stderr, program.returncode) == ("", "", code)
    assert not list_hosts(own_home)


def test_calls_work_in_a_thread_after_the_main_thread_ended(own_home: Path) -> None:
    """Also calls that need a worker thread: asyncio's own executor rejects work by then."""
    source = """
import threading
client.complete("Hello", max_tokens=5)
def late():
    threading.main_thread().join()
    print(client.complete("Hello", max_tokens=5).usage.completion_tokens)
    print(client.health_check().status)
threading.Thread(target=late).start()
"""
    with start_program(PROGRAM + source, str(own_home), "demo") as program:
        stdout, stderr = program.communicate(timeout=30)
    assert (stdout, stderr, program.returncode) == ("5\nhealthy\n", "", 0)
    assert not list_hosts(own_home)
