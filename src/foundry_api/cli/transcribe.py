"""`foundry-api transcribe`: the text of an audio file."""

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
    from foundry_api.core.options import ModelOptions
    from foundry_api.types.results import Transcription

__all__ = ["command"]

STANDARD_STREAM = "-"
EPILOG = format_examples(
    "transcribe --model whisper-tiny --language en talk.wav",
    "transcribe -m whisper-tiny --language de talk.wav > talk.txt",
    "transcribe --json --model whisper-tiny --language en talk.wav",
)


@click.command("transcribe", epilog=EPILOG)
@click.argument(
    "audio_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("-m", "--model", metavar="NAME", required=True, help="Speech model, alias or id.")
@click.option(
    "--language", metavar="CODE", help="Spoken language, such as en or de; optional for Nemotron."
)
@click.option("--temperature", type=float, help="Sampling temperature, 0 to 1; 0 is greedy.")
@click.option(
    "--timeout", type=float, help="Seconds to wait for more text. [FOUNDRY_TIMEOUT, else 30]"
)
@click.option("--deadline", type=float, help="Seconds for the entire file. [FOUNDRY_DEADLINE]")
@click.option("-y", "--yes", is_flag=True, help="Download a missing model.")
@common_options
@pass_common
def command(
    common: GlobalOptions,
    *,
    audio_file: Path,
    model: str,
    language: str | None,
    temperature: float | None,
    timeout: float | None,
    deadline: float | None,
    yes: bool,
) -> None:
    """Transcribe an audio file.

    Text is printed as it is recognised. FILE may be a pipe; - is standard input.
    """
    audio = _read_audio(audio_file)
    options: ModelOptions = {"download": yes}
    with Session(common, timeout_s=timeout, deadline_s=deadline) as session:
        client = session.client
        if common.as_json:
            transcription = session.run(
                client.transcribe(
                    audio, model=model, language=language, temperature=temperature, **options
                ),
                description="Transcribing ...",
            )
            print_json(_to_json(transcription))
            return
        chunks = client.stream_transcribe(
            audio, model=model, language=language, temperature=temperature, **options
        )

        async def print_chunks() -> None:
            printer = AnswerPrinter()
            async with aclosing(chunks):
                try:
                    async for chunk in chunks:
                        printer.write(chunk.text)
                finally:
                    printer.finish()

        session.run(print_chunks())


def _read_audio(audio_file: Path) -> Path | bytes:
    # A pipe is read here, outside the event loop, where Ctrl-C ends a blocking read.
    if str(audio_file) == STANDARD_STREAM:
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] # of programs without a console
            raise click.UsageError("This program has no standard input: give a file.")
        return read_recording(sys.stdin.buffer, "of standard input")
    if audio_file.is_file():
        return audio_file
    with audio_file.open("rb") as file:
        return read_recording(file, str(audio_file))


def _to_json(transcription: Transcription) -> dict[str, object]:
    return {
        "text": transcription.text,
        "model": transcription.model,
        "timings": transcription.timings,
        "attempts": len(transcription.attempts),
        "service": transcription.service,
        "service_generation": transcription.service_generation,
    }
