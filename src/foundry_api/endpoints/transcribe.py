"""Transcriptions: by a path where the service wants one, as an upload where it takes that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from foundry_api.arguments import check_range, check_text
from foundry_api.endpoints.asking import WholeBody
from foundry_api.errors import InvalidRequest, UnsupportedFeature
from foundry_api.replies.transcription import Transcription, TranscriptionChunk
from foundry_api.wire.endpoints.transcriptions import (
    TRANSCRIPTIONS_ROUTE,
    TranscriptionStream,
    heard,
    multipart,
    transcription_body,
)
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from foundry_api.capabilities import Capabilities
    from foundry_api.connection import Connection
    from foundry_api.endpoints.asking import Asking, Decoder
    from foundry_api.endpoints.exchange import Outcome
    from foundry_api.endpoints.recording import Recording
    from foundry_api.errors import FoundryError
    from foundry_api.events import Operation
    from foundry_api.messages import Model
    from foundry_api.wire.endpoints.transcriptions import Heard
    from foundry_api.wire.transport import Request

    Hearing = Asking[TranscriptionChunk, Heard]

__all__ = ["Listening", "last_of", "speech_options", "transcription_of"]

_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he "
    "hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my nb "
    "ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt "
    "uk ur uz vi yi yo zh"
)
LANGUAGES = frozenset(_CODES.split())
"""Those of Whisper and Nemotron. The engine takes English for any other, without a word
(onnx_audio_generator.cc, and probed on 2.2.1)."""


@dataclass(slots=True)
class Listening:
    """A recording to transcribe.

    Attributes:
        recording: What to listen to.
        options: Language, temperature and prompt, those that the caller gave.
    """

    recording: Recording
    options: dict[str, Any]
    _where: str = ""
    _content: bytes = b""
    operation: ClassVar[Operation] = "transcription"

    def check(self, capabilities: Capabilities) -> None:
        """Refuse a generation that does not listen, or not to all of the options."""
        generation = capabilities.generation
        if capabilities.audio == "unsupported":
            raise UnsupportedFeature(f"a service of generation {generation} does not transcribe")
        if "prompt" in self.options and capabilities.audio_form == "path":
            raise UnsupportedFeature(
                f"a service of generation {generation} ignores a prompt for a transcription",
                hint="Leave prompt out.",
            )

    async def verify(self, connection: Connection, model: Model) -> None:
        """Have the recording where the service can reach it."""
        del model
        if connection.dialect.capabilities.audio_form == "upload":
            self._content = await self.recording.content()
        elif is_loopback(connection.base_url):
            self._where = await self.recording.path()
        else:
            raise UnsupportedFeature(
                "the service takes the path of a recording on its own machine, and that is not "
                "this one",
                hint="Transcribe on the service's machine, or through a gateway there.",
                service=connection.base_url,
            )

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        path = connection.dialect.path(model.catalog, TRANSCRIPTIONS_ROUTE)
        if connection.dialect.capabilities.audio_form == "path":
            body = transcription_body(model.id, self._where, self.options)
            return connection.wire.post(path, body)
        kind, body = multipart(model.id, self.recording.name, self._content, self.options)
        return connection.wire.request("POST", path, body, {"Content-Type": kind})

    def plain(self, connection: Connection, model: Model) -> Request | None:
        """None: a stream that fails says why."""
        del connection, model
        return None

    def amended(self, error: FoundryError) -> None:
        """None: nothing can be put right."""
        del error

    def decoder(self, connection: Connection, model: Model) -> Decoder[TranscriptionChunk, Heard]:
        """Reads the text."""
        if connection.dialect.capabilities.audio_form == "path":
            return TranscriptionStream(model.id)
        return WholeBody(heard)


def speech_options(language: object, temperature: object, prompt: object) -> dict[str, Any]:
    """The options that were given, checked.

    Raises:
        InvalidRequest: One of them is not what the services take; `.field` names it.
    """
    options: dict[str, Any] = {}
    if language is not None:
        options["language"] = _language(language)
    if temperature is not None:
        check_range("temperature", temperature, 0, 1)
        options["temperature"] = temperature
    if prompt is not None:
        options["prompt"] = check_text("prompt", prompt)
    return options


def _language(language: object) -> str:
    known = check_text("language", language)
    if known.lower().partition("-")[0] not in LANGUAGES and known.lower() != "auto":
        raise InvalidRequest(
            f"language is {known!r}, which no engine knows; it would listen for English instead",
            field="language",
            hint="Give its code of ISO 639, such as de.",
        )
    return known


def transcription_of(outcome: Outcome[Heard]) -> Transcription:
    """A whole transcription."""
    text, raw = outcome.result
    return Transcription(
        text=text,
        model=outcome.model.id,
        service=outcome.service,
        generation=outcome.generation,
        timings=outcome.timings,
        attempts=outcome.attempts,
        raw=raw,
    )


def last_of(outcome: Outcome[Heard], *, streamed: bool) -> TranscriptionChunk:
    """The last piece of a transcription; one that was not streamed has its text in it."""
    text = "" if streamed else outcome.result[0]
    return TranscriptionChunk(
        text, outcome.model.id, timings=outcome.timings, attempts=outcome.attempts
    )
