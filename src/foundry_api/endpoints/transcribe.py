"""Transcriptions: by a path where the service wants one, as an upload where it takes that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from foundry_api.arguments import check_range, check_text
from foundry_api.endpoints.asking import WholeBody
from foundry_api.endpoints.languages import UNSPACED, checked_language, language_for
from foundry_api.endpoints.tasks import speech_kind
from foundry_api.errors import UnsupportedFeature
from foundry_api.messages import Timings
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
    from foundry_api.endpoints.recording import Part
    from foundry_api.errors import FoundryError
    from foundry_api.events import Operation
    from foundry_api.messages import Attempt, Model
    from foundry_api.wire.endpoints.transcriptions import Heard
    from foundry_api.wire.transport import Request

    Hearing = Asking[TranscriptionChunk, Heard]

__all__ = ["Joined", "Listening", "speech_options"]


@dataclass(slots=True)
class Listening:
    """A recording to transcribe.

    Attributes:
        recording: What to listen to: a whole recording or a part of one.
        options: Language, temperature and prompt, those that the caller gave.
    """

    recording: Part
    options: dict[str, Any]
    _where: str = ""
    _language: dict[str, str] = field(default_factory=dict[str, str])
    _content: bytes = b""
    operation: ClassVar[Operation] = "transcription"

    @property
    def is_repeatable(self) -> bool:
        """Always: nothing stays of it."""
        return True

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
        """Have the recording where the service can reach it, and a language that it understands.

        Raises:
            InvalidRequest: The model does not know the language, or can't detect it.
            UnsupportedFeature: The service wants a path, and is on another machine.
        """
        if connection.dialect.capabilities.audio_form == "upload":
            self._content = await self.recording.content()
        elif is_loopback(connection.base_url):
            if (speech := await speech_kind(connection, model)) is not None:
                code = language_for(speech, self.options.get("language"), model.id)
                self._language = {"language": code}
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
            options = {**self.options, **self._language}
            body = transcription_body(model.id, self._where, options)
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
        options["language"] = checked_language(language)
    if temperature is not None:
        options["temperature"] = check_range("temperature", temperature, 0, 1)
    if prompt is not None:
        options["prompt"] = check_text("prompt", prompt)
    return options


class Joined:
    """The texts of a recording's parts, put together.

    Args:
        language: The one that is spoken, if it is known.

    Attributes:
        text: What was said so far.
    """

    def __init__(self, language: str | None) -> None:
        self._space = "" if language and language.partition("-")[0] in UNSPACED else " "
        self._outcomes: list[Outcome[Heard]] = []
        self._starts_part = True
        self.text = ""

    def add(self, text: str) -> str:
        """Add a piece, and return it with a space before it where a part begins without one."""
        if text and self._starts_part and self.text and not self._is_apart(text):
            text = self._space + text
        self._starts_part = self._starts_part and not text
        self.text += text
        return text

    def end_part(self, outcome: Outcome[Heard]) -> None:
        """A part is over."""
        self._outcomes.append(outcome)
        self._starts_part = True

    def transcription(self) -> Transcription:
        """All of it."""
        last = self._outcomes[-1]
        return Transcription(
            text=self.text,
            model=last.model.id,
            service=last.service,
            generation=last.generation,
            timings=self.timings,
            attempts=self.attempts,
            raw=tuple(raw for outcome in self._outcomes for raw in outcome.result[1]),
        )

    def last_chunk(self) -> TranscriptionChunk:
        """What ends a stream of pieces."""
        model = self._outcomes[-1].model.id
        return TranscriptionChunk("", model, timings=self.timings, attempts=self.attempts)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The requests for all parts."""
        return tuple(attempt for outcome in self._outcomes for attempt in outcome.attempts)

    @property
    def timings(self) -> Timings:
        """Where the time went, over all parts."""
        each = [outcome.timings for outcome in self._outcomes]
        return Timings(
            each[0].time_to_first_token_s,
            sum(timings.total_s for timings in each),
            None,
            sum(timings.queued_s for timings in each),
        )

    def _is_apart(self, text: str) -> bool:
        return self.text[-1].isspace() or text[0].isspace()
