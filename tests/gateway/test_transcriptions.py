"""`POST /v1/audio/transcriptions` on the wire."""

from __future__ import annotations

import asyncio
import errno
import stat
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.openai import transcriptions
from foundry_api.types.events import AttemptStarted
from gateway.helpers import make_recording
from gateway.shapes import check_shape, parse_events
from gateway.waiting import wait_until_idle
from service.helpers import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from foundry_api.gateway.gateway import Gateway

PATH = "/v1/audio/transcriptions"


@pytest.fixture
def config() -> GatewayConfig:
    return GatewayConfig(port=0, max_upload_bytes=200_000)


@pytest.fixture
def directory(gateway: Gateway) -> Path:
    """Where the recordings are, as long as they are needed."""
    return gateway.context.files.directory


def list_files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def make_form(content: bytes | None = None, **fields: str) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in {"model": "transcriber", "language": "en", **fields}.items():
        form.add_field(name, value)
    form.add_field(
        "file",
        make_recording() if content is None else content,
        filename="../../speech.wav",
        content_type="audio/wav",
    )
    return form


async def post(
    http: aiohttp.ClientSession, status: int = 200, content: bytes | None = None, **fields: str
) -> Any:
    async with http.post(PATH, data=make_form(content, **fields)) as response:
        is_json = response.content_type == "application/json"
        answer = await (response.json() if is_json else response.text())
        assert response.status == status, answer
        return answer


async def test_each_format_has_openai_shape(http: aiohttp.ClientSession, directory: Path) -> None:
    answer = await post(http)
    check_shape("transcription", answer)
    assert answer["text"]
    assert answer["usage"] == {"type": "duration", "seconds": 1}
    assert await post(http, response_format="text") == answer["text"] + "\n"
    verbose = await post(http, response_format="verbose_json")
    check_shape("transcription.verbose", verbose)
    assert (verbose["duration"], verbose["segments"][0]["end"]) == (1.0, 1.0)
    assert list_files(directory) == []


async def test_p25_the_recording_is_in_a_private_file_that_is_removed(
    gateway: Gateway, http: aiohttp.ClientSession, directory: Path
) -> None:
    modes: list[int] = []
    gateway.context.client.events.subscribe(
        lambda _: modes.extend(stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()),
        AttemptStarted,
    )
    await post(http)
    assert modes == [0o666 if sys.platform == "win32" else 0o600]  # Windows has no such modes
    assert list_files(directory) == []


async def test_a_full_disk_is_reported_as_such(
    http: aiohttp.ClientSession, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transcriptions, "Draft", fail)
    async with http.post(PATH, data=make_form()) as response:
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (507, "disk_full")
    assert list_files(directory) == []


async def test_p25_a_path_is_refused(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    path.write_bytes(make_recording())
    body = {"model": "transcriber", "filename": str(path), "file": str(path)}
    async with http.post(PATH, json=body) as response:
        answer = await response.json()
    check_shape("error", answer)
    assert (response.status, answer["error"]["param"]) == (400, "file")


async def test_a_transcription_is_streamed(http: aiohttp.ClientSession, directory: Path) -> None:
    text = (await post(http))["text"]
    async with http.post(PATH, data=make_form(stream="true")) as response:
        *deltas, done, end = parse_events(await response.text())
    assert "".join(event["delta"] for event in deltas) == done["text"] == text
    assert (done["type"], end) == ("transcript.text.done", "[DONE]")
    # The recording is removed after the stream, whose end the client has then.
    await wait_until_async(lambda: not list_files(directory))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "srt"}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "7"}, "temperature"),
        ({"language": "xx-none"}, "language"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"content": b""}, "file"),
    ],
)
async def test_a_bad_request_names_the_field(
    http: aiohttp.ClientSession, directory: Path, fields: dict[str, Any], param: str
) -> None:
    answer = await post(http, 400, **fields)
    check_shape("error", answer)
    assert answer["error"]["param"] == param
    assert list_files(directory) == []


async def test_a_recording_that_cannot_be_read_names_no_path(
    http: aiohttp.ClientSession, directory: Path
) -> None:
    async with http.post(PATH, data=make_form(b"no recording at all")) as response:
        text = await response.text()
    assert response.status >= 400
    assert str(directory) not in text
    assert ".part" not in text


async def test_a_form_without_a_file_names_it(http: aiohttp.ClientSession) -> None:
    form = aiohttp.FormData({"model": "transcriber"}, default_to_multipart=True)
    async with http.post(PATH, data=form) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["param"]) == (400, "file")


async def test_recordings_are_bounded_in_all(
    gateway: Gateway, http: aiohttp.ClientSession, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcriptions, "MAX_RECORDINGS_BYTES", 210_000)
    sent = asyncio.Event()

    async def send_slowly() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        await sent.wait()

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    first = asyncio.ensure_future(http.post(PATH, data=send_slowly(), headers=headers))
    await wait_until_async(lambda: bool(list_files(directory)))
    async with http.post(PATH, data=make_form()) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "queue_full")
        assert "Retry-After" in response.headers
    sent.set()
    async with await first as response:
        assert response.status == 400
    assert gateway.context.recording_bytes == 0
    async with http.post(PATH, data=make_form()) as response:
        assert response.status == 200


async def test_p49_a_form_is_bounded(http: aiohttp.ClientSession, directory: Path) -> None:
    answer = await post(http, 413, make_recording(10))
    assert answer["error"]["code"] == "payload_too_large"
    answer = await post(http, 400, prompt="x" * 100_000)
    assert answer["error"]["param"] == "prompt"
    answer = await post(http, 400, **{f"field{index}": "x" for index in range(40)})
    assert "parts" in answer["error"]["message"]
    assert list_files(directory) == []


@pytest.mark.parametrize(
    "body",
    [b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data; name=\xff\r\n\r\nx"],
)
async def test_a_broken_form_is_400(
    http: aiohttp.ClientSession, directory: Path, body: bytes
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with http.post(PATH, data=body, headers=headers) as response:
        check_shape("error", await response.json())
        assert response.status == 400
    assert list_files(directory) == []


async def test_a_form_without_a_boundary_is_400(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    async with http.post(PATH, data=b"x", headers=headers) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    ("fields", "after"),
    [({}, "start"), ({"stream": "true"}, "start"), ({"stream": "true"}, "delta")],
    ids=["p1_without_a_stream", "p2_before_the_first_byte", "p3_in_the_stream"],
)
async def test_a_client_that_leaves_frees_the_engine(  # noqa: PLR0917 - four are fixtures
    gateway: Gateway,
    http: aiohttp.ClientSession,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, str],
    after: str,
) -> None:
    context = gateway.context
    started, received = asyncio.Event(), asyncio.Event()
    context.client.events.subscribe(lambda _: started.set(), AttemptStarted)
    stream_transcribe = context.client.stream_transcribe

    async def pause_after_the_first_chunk(*args: Any, **options: Any) -> AsyncGenerator[Any]:
        async with aclosing(stream_transcribe(*args, **options)) as chunks:
            async for chunk in chunks:
                yield chunk
                await asyncio.Event().wait()  # the scripted model would be done too soon

    monkeypatch.setattr(context.client, "stream_transcribe", pause_after_the_first_chunk)

    async def transcribe() -> None:
        async with http.post(PATH, data=make_form(make_recording(6), **fields)) as response:
            await response.content.readany()
            received.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(transcribe())
    async with asyncio.timeout(30):
        await (started if after == "start" else received).wait()
        [exchange] = context.running
        task.cancel()
        await asyncio.shield(exchange.ended)
    await wait_until_idle(context.client)
    assert exchange.outcome == "client_closed"
    assert context.admission.accounts.get(None).running == 0
    await wait_until_async(lambda: not list_files(directory))


async def test_an_upload_is_repeated_by_its_idempotency_key(http: aiohttp.ClientSession) -> None:
    headers = {"Idempotency-Key": "k"}
    answers: list[bytes] = []
    for replayed in (None, "true"):
        # Each form has another boundary.
        async with http.post(PATH, data=make_form(), headers=headers) as response:
            answers.append(await response.read())
            assert response.headers.get("Idempotency-Replayed") == replayed
    assert answers[0] == answers[1]
    async with http.post(PATH, data=make_form(prompt="x"), headers=headers) as response:
        assert response.status == 409
