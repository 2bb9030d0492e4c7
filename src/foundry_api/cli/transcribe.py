"""`foundry-api transcribe`: what is said in a recording."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from foundry_api.cli.options import GlobalOptions, common_options, format_examples, pass_common
from foundry_api.cli.output import print_json
from foundry_api.cli.printer import AnswerPrinter
from foundry_api.cli.session import Session
from foundry_api.core.transcriptions import read_recording

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.core.options import ModelOptions
    from foundry_api.types.results import Transcription, TranscriptionChunk

__all__ = ["command"]

STANDARD_STREAM = "-"
EPILOG = format_examples(
    "transcribe --model whisper-tiny --language en talk.wav",
    "transcribe --model whisper-tiny --language de talk.wav > talk.txt",
    "transcribe --json --model whisper-tiny --language en talk.wav",
)


@click.command("transcribe", epilog=EPILOG)
@click.argument(
    "recording",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("-m", "--model", metavar="NAME", required=True, help="Alias or id of a transcriber.")
@click.option("--language", metavar="CODE", help="Such as en or de; Nemotron detects it.")
@click.option("--temperature", type=float, help="0, always the likeliest word, to 1.")
@click.option("--timeout", type=float, help="Seconds without a word. [FOUNDRY_TIMEOUT, else 30]")
@click.option("--deadline", type=float, help="Seconds for all of it. [FOUNDRY_DEADLINE]")
@click.option("-y", "--yes", is_flag=True, help="Download a missing model.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    recording: Path,
    model: str,
    language: str | None,
    temperature: float | None,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Tell what is said in a recording, as it is heard. It may be a pipe; - is standard input."""
    audio = _read_audio(recording)
    options: ModelOptions = {"download": yes}
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        client = session.client
        if common.as_json:
            transcription = session.run(
                client.transcribe(
                    audio, model=model, language=language, temperature=temperature, **options
                ),
                description="Listening",
            )
            print_json(_to_json(transcription))
            return
        pieces = client.stream_transcribe(
            audio, model=model, language=language, temperature=temperature, **options
        )
        session.run(_print_transcript(pieces))


def _read_audio(recording: Path) -> Path | bytes:
    """A file, or the bytes of a pipe: read here, where Ctrl-C ends the waiting for them."""
    if str(recording) == STANDARD_STREAM:
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] # of programs without a console
            raise click.UsageError("This program has no standard input: give a file.")
        return read_recording(sys.stdin.buffer, "of standard input")
    if recording.is_file():
        return recording
    with recording.open("rb") as file:
        return read_recording(file, str(recording))


async def _print_transcript(chunks: AsyncGenerator[TranscriptionChunk]) -> None:
    speaker = AnswerPrinter()
    async with aclosing(chunks):
        try:
            async for piece in chunks:
                speaker.write(piece.text)
        finally:
            speaker.finish()


def _to_json(transcription: Transcription) -> dict[str, object]:
    """A transcription as JSON."""
    return {
        "text": transcription.text,
        "model": transcription.model,
        "timings": transcription.timings,
        "attempts": len(transcription.attempts),
        "service": transcription.service,
        "service_generation": transcription.service_generation,
    }
