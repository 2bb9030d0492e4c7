"""Transcribe audio: the operation, languages, and the parts of long recordings."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Self

from foundry_api.core.audio import (
    WINDOW_S,
    WaveFile,
    find_next_cut,
    iter_part,
    read_duration_s,
    read_wave,
)
from foundry_api.core.model_task import detect_speech_kind
from foundry_api.core.operation import EndpointOperation, WholeBody
from foundry_api.storage.threads import finish_opening
from foundry_api.types.checks import check_range, check_text
from foundry_api.types.errors import InvalidRequest, UnsupportedFeature, UnsupportedParameter
from foundry_api.types.local_path import absolute_path
from foundry_api.types.messages import Timings
from foundry_api.types.results import Transcription, TranscriptionChunk
from foundry_api.types.values import as_path, format_value
from foundry_api.wire.endpoints.transcriptions import (
    TRANSCRIPTIONS_ROUTE,
    TranscriptionBody,
    TranscriptionStream,
    encode_multipart,
    make_transcription_body,
    parse_transcription,
)
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from types import TracebackType

    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Decoder, Outcome
    from foundry_api.engine.models.task import Speech
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import OperationName
    from foundry_api.types.messages import AttemptRecord
    from foundry_api.types.models import Model
    from foundry_api.wire.dialects.base import Dialect
    from foundry_api.wire.transport import Request

__all__ = [
    "AUTO",
    "LANGUAGES",
    "MAX_UPLOAD_BYTES",
    "UNSPACED_LANGUAGES",
    "AudioInput",
    "AudioPart",
    "TranscriptJoiner",
    "TranscriptionOperation",
    "make_transcription_options",
    "read_recording",
    "select_language",
    "validate_language",
]

log = logging.getLogger("foundry_api")

# An upload is kept in memory. Half an hour of 16-bit speech at 48 kHz has 173 MB.
MAX_UPLOAD_BYTES = 256 * 2**20

ENCODER_PADDING_S = 0.1  # the silence that MP3 encoders add at most

AUTO = "auto"
_WHISPER_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he "
    "hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne "
    "nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk "
    "ur uz vi yi yo zh"
)
WHISPER_LANGUAGES = frozenset(_WHISPER_CODES.split())
_NEMOTRON_CODES = (
    "ar ar-ar bg bg-bg cs cs-cz da da-dk de de-de el el-gr en en-gb en-us es es-es es-us et et-ee "
    "fi fi-fi fr fr-ca fr-fr he he-il hi hi-in hr hr-hr hu hu-hu it it-it ja ja-jp ko ko-kr lt "
    "lt-lt lv lv-lv mt mt-mt nb nb-no nl nl-nl nn nn-no pl pl-pl pt pt-br pt-pt ro ro-ro ru ru-ru "
    "sk sk-sk sl sl-si sv sv-se th th-th tr tr-tr uk uk-ua vi vi-vn zh-cn"
)
NEMOTRON_LANGUAGES = frozenset(_NEMOTRON_CODES.split())
LANGUAGES = WHISPER_LANGUAGES | {code.partition("-")[0] for code in NEMOTRON_LANGUAGES}

# Languages without spaces between sentences.
UNSPACED_LANGUAGES = frozenset({"bo", "ja", "km", "lo", "my", "th", "zh"})

# Other codes of the same language.
_WHISPER_NAMES = {"nb": "no"}
_NEMOTRON_NAMES = {"no": "nb", "zh": "zh-cn"}


# --- the operation ----------------------------------------------------------------------------


@dataclass(slots=True)
class TranscriptionOperation(EndpointOperation[TranscriptionChunk, TranscriptionBody]):
    """The transcription of a recording, or of a part of one.

    `options` are the language, the temperature and the prompt, as far as the caller gave them.
    """

    audio: AudioPart
    options: dict[str, Any]
    _audio_path: str = ""
    _language: dict[str, str] = field(default_factory=dict[str, str])
    _content: bytes = b""
    name: ClassVar[OperationName] = "transcription"

    def check(self, capabilities: Capabilities) -> None:
        generation = capabilities.service_generation
        if capabilities.audio == "unsupported":
            raise UnsupportedFeature(f"a service of generation {generation} does not transcribe")
        if "prompt" in self.options and capabilities.audio_upload == "path":
            raise UnsupportedParameter(
                f"a service of generation {generation} ignores a prompt for a transcription",
                field="prompt",
                hint="Leave prompt out.",
            )

    async def preflight(self, connection: Connection, model: Model) -> None:
        """Read or write the recording as the service needs it, and check the language."""
        if connection.dialect.capabilities.audio_upload == "upload":
            self._content = await self.audio.read_content()
        elif is_loopback(connection.base_url):
            if (speech := await detect_speech_kind(connection, model)) is not None:
                code = select_language(speech, self.options.get("language"), model.id)
                self._language = {"language": code}
            self._audio_path = await self.audio.get_path()
        else:
            raise UnsupportedFeature(
                "the service reads recordings only from its own machine, which is not this one",
                hint="Transcribe on the service's machine, or through a gateway there.",
                service=connection.base_url,
            )

    def make_request(self, connection: Connection, model: Model) -> Request:
        dialect, options = connection.dialect, self.options
        path = dialect.make_path(model.catalog, TRANSCRIPTIONS_ROUTE)
        name = dialect.get_model_name(model)
        if dialect.capabilities.audio_upload == "path":
            options = {**options, **self._language}
            body = make_transcription_body(name, self._audio_path, options)
            return connection.service_client.build_post(path, body)
        if _is_streamed(dialect):
            options = {**options, "stream": "true"}  # for its keep-alives
        content_type, body = encode_multipart(name, self.audio.name, self._content, options)
        return connection.service_client.build_request(
            "POST", path, body, {"Content-Type": content_type}
        )

    def make_decoder(
        self, connection: Connection, model: Model
    ) -> Decoder[TranscriptionChunk, TranscriptionBody]:
        if _is_streamed(connection.dialect):
            return TranscriptionStream(model.id)
        return WholeBody(parse_transcription)

    def collect(
        self, chunks: list[TranscriptionChunk], texts: list[str], *, keep_result: bool
    ) -> None:
        del keep_result
        texts += [chunk.text for chunk in chunks]


def _is_streamed(dialect: Dialect) -> bool:
    """Return whether the service streams a transcription.

    Other servers of OpenAI's API ignore the wish for a stream, or send events of their own shapes.
    """
    return dialect.capabilities.audio_upload == "path" or dialect.service_generation == "gateway"


def make_transcription_options(
    language: object, temperature: object, prompt: object
) -> dict[str, Any]:
    """Return the validated options that are not None."""
    options: dict[str, Any] = {}
    if language is not None:
        options["language"] = validate_language(language)
    if temperature is not None:
        options["temperature"] = check_range("temperature", temperature, 0, 1)
    if prompt is not None:
        options["prompt"] = check_text("prompt", prompt)
    return options


class TranscriptJoiner:
    """Joins the transcriptions of the parts of a recording."""

    def __init__(self, language: str | None) -> None:
        self._space = "" if language and language.partition("-")[0] in UNSPACED_LANGUAGES else " "
        self._outcomes: list[Outcome[TranscriptionBody]] = []
        self._starts_part = True
        self.text = ""

    def add(self, text: str) -> str:
        """Add a text and return it, with a space before it if it must be separated."""
        if text and self._starts_part and self.text:
            is_separated = self.text[-1].isspace() or text[0].isspace()
            text = text if is_separated else self._space + text
        self._starts_part = self._starts_part and not text
        self.text += text
        return text

    def end_part(self, outcome: Outcome[TranscriptionBody]) -> None:
        self._outcomes.append(outcome)
        self._starts_part = True

    def make_transcription(self) -> Transcription:
        last = self._outcomes[-1]
        return Transcription(
            text=self.text,
            model=last.model.id,
            service=last.service,
            service_generation=last.service_generation,
            timings=self.timings,
            attempts=self.attempts,
            raw=tuple(raw for outcome in self._outcomes for raw in outcome.result[1]),
        )

    def make_final_chunk(self) -> TranscriptionChunk:
        """Return the chunk that ends a stream."""
        model = self._outcomes[-1].model.id
        return TranscriptionChunk("", model, timings=self.timings, attempts=self.attempts)

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """The attempts of all parts."""
        return tuple(attempt for outcome in self._outcomes for attempt in outcome.attempts)

    @property
    def timings(self) -> Timings:
        """The sums over all parts, and the time to the first token of the first part."""
        part_timings = [outcome.timings for outcome in self._outcomes]
        return Timings(
            part_timings[0].time_to_first_token_s,
            sum(timings.total_s for timings in part_timings),
            None,
            sum(timings.queued_s for timings in part_timings),
        )


# --- languages --------------------------------------------------------------------------------


def validate_language(language: object) -> str:
    """Return a language code in lower case that some model knows, or `auto`."""
    code = check_text("language", language).lower().replace("_", "-")
    if code.partition("-")[0] not in LANGUAGES and code != AUTO:
        raise InvalidRequest(
            f"language is {language!r}, which no engine knows; it would listen for English instead",
            field="language",
            hint="Give its code of ISO 639, such as de.",
        )
    return code


def select_language(speech: Speech, language: str | None, model: str) -> str:
    """Return the language code for the engine. None asks the model to detect the language."""
    if speech == "nemotron":
        code = language or AUTO
        base = code.partition("-")[0]
        for candidate in (code, _NEMOTRON_NAMES.get(code), base, _NEMOTRON_NAMES.get(base)):
            if candidate is not None and (candidate in NEMOTRON_LANGUAGES or candidate == AUTO):
                return candidate
        raise _make_unknown_language_error(code, model)
    if language is None or language == AUTO:
        if speech == "english":
            return "en"
        raise InvalidRequest(
            f"no language is given, and the engine cannot have {model} detect it: it would listen "
            "for English, whatever is spoken",
            field="language",
            hint="Give the code of the language that is spoken, such as en or de.",
        )
    base = language.partition("-")[0]
    code = _WHISPER_NAMES.get(base, base)
    if code not in WHISPER_LANGUAGES or (speech == "english" and code != "en"):
        raise _make_unknown_language_error(language, model)
    return code


def _make_unknown_language_error(code: str, model: str) -> InvalidRequest:
    return InvalidRequest(
        f"language is {code!r}, which {model} does not know; the engine would listen for another",
        field="language",
    )


# --- recordings -------------------------------------------------------------------------------


class AudioPart:
    """Audio that fits into one request. As a context manager it deletes its temporary file."""

    name = "recording"  # the file name in an upload

    def __init__(self) -> None:
        self._temporary_file: Path | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        temporary_file, self._temporary_file = self._temporary_file, None
        if temporary_file is not None:
            await asyncio.to_thread(_remove_file, temporary_file)

    async def get_path(self) -> str:
        """Return an absolute path; bytes are written to a file that only this user can read."""
        if self._temporary_file is None:
            self._temporary_file = await finish_opening(
                asyncio.to_thread(lambda: _write_temporary_file(self._iter_blocks())),
                lambda path: asyncio.to_thread(_remove_file, path),
            )
        return str(self._temporary_file)

    async def read_content(self) -> bytes:
        return await asyncio.to_thread(lambda: b"".join(self._iter_blocks()))

    def _iter_blocks(self) -> Iterable[bytes]:
        raise NotImplementedError


class AudioInput(AudioPart):
    """A recording: the bytes of a file, or a path. The path may be a pipe, which is read once."""

    def __init__(self, audio: str | os.PathLike[str] | bytes) -> None:
        super().__init__()
        self._content: bytes | None = None
        self._path: Path | None = None
        if isinstance(audio, bytes | bytearray | memoryview):
            self._content = bytes(audio)
            if not self._content:
                raise InvalidRequest("audio is empty", field="audio")
        else:
            self._path = _validate_path(audio)
            if self._path.is_file():
                self.name = self._path.name

    async def get_path(self) -> str:
        await self._read_pipe()
        return await super().get_path() if self._path is None else str(self._path)

    async def read_content(self) -> bytes:
        await self._read_pipe()
        return await super().read_content()

    async def iter_parts(self) -> AsyncGenerator[AudioPart]:
        """Yield parts that a model can transcribe at once, divided at silence."""
        await self._read_pipe()
        wave = await asyncio.to_thread(self._read_wave)
        if wave is None or wave.duration_s <= WINDOW_S:
            yield self
            return
        start = 0
        while start < wave.frames:
            end = await asyncio.to_thread(self._find_next_cut, wave, start)
            yield _WavePart(self, wave, start, end)
            start = end

    def open(self) -> BinaryIO:
        if self._path is None:
            return io.BytesIO(self._content or b"")
        try:
            return self._path.open("rb")
        except OSError as error:
            raise _make_unreadable_error(error) from error

    async def _read_pipe(self) -> None:
        if self._path is not None and not self._path.is_file():
            self._content = await asyncio.to_thread(_read_file, self._path)
            self._path = None

    def _read_wave(self) -> WaveFile | None:
        """Return the layout of a WAV file, or None for a recording that need not be divided.

        Raise InvalidRequest if it must be divided and can't be.
        """
        try:
            with self.open() as file:
                wave = read_wave(file)
                if wave is not None and (wave.is_divisible or wave.duration_s <= WINDOW_S):
                    return wave
                duration_s = wave.duration_s if wave else read_duration_s(file)
        except OSError as error:
            raise _make_unreadable_error(error) from error
        if duration_s is not None and duration_s > WINDOW_S + ENCODER_PADDING_S:
            is_known = math.isfinite(duration_s)
            duration_text = f"lasts {duration_s:.1f} s" if is_known else "may last long"
            raise InvalidRequest(
                f"the recording {duration_text}, and a model transcribes only the first "
                f"{WINDOW_S:.0f} s",
                field="audio",
                hint="Convert it to a WAV file of 16-bit samples, which is divided at silence: "
                "ffmpeg -i FILE -ac 1 -ar 16000 talk.wav",
            )
        return None

    def _find_next_cut(self, wave: WaveFile, start: int) -> int:
        try:
            with self.open() as file:
                return find_next_cut(file, wave, start)
        except OSError as error:
            raise _make_unreadable_error(error) from error

    def _iter_blocks(self) -> Iterable[bytes]:
        if self._path is None:
            return [self._content or b""]
        return [_read_file(self._path)]


class _WavePart(AudioPart):
    """A range of frames of a WAV file."""

    name = "recording.wav"

    def __init__(self, audio_input: AudioInput, wave: WaveFile, start: int, end: int) -> None:
        super().__init__()
        self._audio_input = audio_input
        self._wave = wave
        self._range = (start, end)

    def _iter_blocks(self) -> Iterable[bytes]:
        with self._audio_input.open() as file:
            yield from iter_part(file, self._wave, *self._range)


def read_recording(file: BinaryIO, name: str) -> bytes:
    """Read a file or a pipe. Blocks. `name` is for error messages."""
    content = file.read(MAX_UPLOAD_BYTES + 1)
    if len(content) > MAX_UPLOAD_BYTES:
        raise InvalidRequest(
            f"the recording {name} has more than the {MAX_UPLOAD_BYTES} bytes that can be uploaded",
            field="audio",
        )
    if not content:
        raise InvalidRequest(f"the recording {name} is empty", field="audio")
    return content


def _validate_path(audio: object) -> Path:
    location = as_path(audio)
    if location is None:
        raise InvalidRequest(f"audio is {format_value(audio)}, not a path or bytes", field="audio")
    problem = ""
    try:
        path = absolute_path(location)
        if path.is_dir():
            problem = "a directory"
        elif not path.exists():
            problem = "not there"
        elif path.is_file() and path.stat().st_size == 0:
            problem = "empty"
    except (OSError, ValueError) as error:
        raise _make_unreadable_error(error) from error
    if problem:
        raise InvalidRequest(f"the recording {path} is {problem}", field="audio")
    return path


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return read_recording(file, str(path))
    except OSError as error:
        raise _make_unreadable_error(error) from error


def _write_temporary_file(blocks: Iterable[bytes]) -> Path:
    handle, name = tempfile.mkstemp(prefix="foundry-api-", suffix=".audio")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(blocks)
    except OSError as error:
        _remove_file(path)
        raise InvalidRequest(
            f"the recording could not be written to a file for the service: {error}", field="audio"
        ) from error
    except BaseException:
        _remove_file(path)
        raise
    return path


def _remove_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            path.unlink()
        except PermissionError:  # on Windows, while the engine still reads it
            log.warning("%s could not be removed: the service still has it open", path)


def _make_unreadable_error(error: Exception) -> InvalidRequest:
    return InvalidRequest(f"the recording cannot be read: {error}", field="audio")
