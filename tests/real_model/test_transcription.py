"""Transcription with Whisper base.

`speech/` has two sentences spoken by espeak-ng: `espeak-ng -v en-us -s 140`, resampled to 16 kHz,
as mu-law.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from foundry_api import FoundryAPIClient, InvalidRequest, ModelTaskMismatch
from real_model.models import SPEECH_MODEL, TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.skipif(
    not SPEECH_MODEL.is_dir(), reason="run: python3 dev.py real-model whisper-base"
)

SPEECH = Path(__file__).parent / "speech"
TEXTS = {
    "paris.wav": "paris is the capital of france",
    "train.wav": "seven people are waiting for the train",
}
RATE = 16_000
HEAD_BYTES = 46
SILENCE = b"\xff"  # a mu-law sample


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[FoundryAPIClient]:
    async with FoundryAPIClient(
        service="embedded", home=tmp_path / "own", model="whisper", timeout=TIMEOUT_S
    ) as client:
        await client.models.register(SPEECH_MODEL, "whisper")
        yield client


def normalize(text: str) -> str:
    return " ".join("".join(c for c in text.lower() if c.isalpha() or c == " ").split())


def make_recording(path: Path, *parts: str | int) -> Path:
    """Join sentences, by file name, and silences, in seconds."""
    samples = b"".join(
        SILENCE * RATE * part
        if isinstance(part, int)
        else (SPEECH / part).read_bytes()[HEAD_BYTES:]
        for part in parts
    )
    head = (SPEECH / "paris.wav").read_bytes()[: HEAD_BYTES - 4]
    path.write_bytes(head + struct.pack("<I", len(samples)) + samples)
    return path


@pytest.mark.parametrize("name", TEXTS)
async def test_speech_is_transcribed(client: FoundryAPIClient, name: str) -> None:
    transcription = await client.transcribe(SPEECH / name, model="whisper", language="en")
    assert normalize(transcription.text) == TEXTS[name]
    stream = client.stream_transcribe(SPEECH / name, model="whisper", language="en")
    chunks = [chunk.text async for chunk in stream]
    assert "".join(chunks) == transcription.text
    assert len(chunks) > 4, "they arrive token by token"
    of_bytes = await client.transcribe((SPEECH / name).read_bytes(), model="whisper", language="en")
    assert of_bytes.text == transcription.text


async def test_a_recording_longer_than_the_window_is_transcribed_to_its_end(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    """The engine alone would drop everything after 30 seconds."""
    recording = make_recording(tmp_path / "long.wav", "paris.wav", 26, "train.wav", 10, "paris.wav")
    text = normalize((await client.transcribe(recording, model="whisper", language="en")).text)
    assert "capital" in text
    assert text.index("capital") < text.index("waiting for the train") < text.rindex("capital")


async def test_a_recording_of_telephony_has_to_be_converted(
    client: FoundryAPIClient, tmp_path: Path
) -> None:
    head = bytearray((SPEECH / "paris.wav").read_bytes())
    head[24:32] = struct.pack("<II", 8000, 8000)  # frames and bytes per second
    (tmp_path / "slow.wav").write_bytes(head)
    with pytest.raises(InvalidRequest, match="down-sampling") as caught:
        await client.transcribe(tmp_path / "slow.wav", model="whisper", language="en")
    assert caught.value.field == "audio"
    assert "-ar 16000" in caught.value.hint


async def test_a_language_is_required(client: FoundryAPIClient) -> None:
    with pytest.raises(InvalidRequest, match="language"):
        await client.transcribe(SPEECH / "paris.wav", model="whisper")


async def test_a_speech_model_does_not_chat(client: FoundryAPIClient) -> None:
    with pytest.raises((ModelTaskMismatch, InvalidRequest)):
        await client.complete("Hello", model="whisper", max_tokens=2)
    assert (await client.health_check()).status == "healthy"
