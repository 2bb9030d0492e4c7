"""The turns of a conversation, and the file that `/save` writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.cli.chat_runner import Turn
from foundry_api.cli.text_file import MAX_BYTES
from foundry_api.storage.private_file import is_replaceable, read_file, replace_file
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path
from foundry_api.types.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["SavedConversation", "Transcript", "load_conversation", "save_conversation"]

FORMAT = "foundry-api conversation"
FILE_START = f'{{\n  "format": "{FORMAT}"'


@dataclass(slots=True)
class Transcript:
    """The turns so far.

    Attributes:
        turns: The turns, oldest first.
        omitted: How many turns no longer fit the context. They are kept, but not sent.
        kept: How many turns at the start are sent although those after them are not.
    """

    turns: list[Turn] = field(default_factory=list[Turn])
    omitted: int = 0
    kept: int = 0

    @property
    def messages(self) -> list[Message]:
        """All messages, oldest first."""
        return [message for turn in self.turns for message in turn]

    @property
    def sent_messages(self) -> list[Message]:
        """The messages that are sent with the next question."""
        kept = min(self.kept, len(self.turns))
        turns = [*self.turns[:kept], *self.turns[kept + self.omitted :]]
        return [message for turn in turns for message in turn]

    def get_oldest(self) -> Turn | None:
        """Return the turn that is omitted next; None if there is none."""
        position = self.kept + self.omitted
        return self.turns[position] if position < len(self.turns) else None

    def remove_last(self) -> Turn | None:
        """Remove the last turn and return it; None if there is none."""
        if not self.turns:
            return None
        turn = self.turns.pop()
        self.omitted = min(self.omitted, max(len(self.turns) - self.kept, 0))
        return turn

    def replace(self, messages: Sequence[Message]) -> None:
        """Replace all turns by these messages."""
        self.turns, self.omitted = [], 0
        for message in messages:
            if message.role == "user" or not self.turns:
                self.turns.append((message,))
            else:
                self.turns[-1] += (message,)


class SavedConversation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation in a file. Only the messages are required.

    Attributes:
        format: Marks files of this program, which it may replace.
        model: The model that answered last.
        options: The options that were set.
        messages: The messages, oldest first; a system message may be the first.
    """

    format: Literal["foundry-api conversation"] | None = None
    model: str | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    messages: tuple[Message, ...]


def save_conversation(path: str, conversation: SavedConversation) -> Path:
    """Write a conversation to a file that only this user can read; return its path."""
    location = _resolve(path)
    if not is_replaceable(location, FILE_START):
        raise InvalidRequest(
            f"{path} exists and is no saved conversation", hint="Give another name."
        )
    document = msgspec.json.format(msgspec.json.encode(conversation), indent=2)
    try:
        replace_file(location, document + b"\n")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from error
    return location


def load_conversation(path: str) -> SavedConversation:
    """Read a conversation: one that was saved, or any JSON object with `messages`."""
    try:
        raw = read_file(_resolve(path), MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(f"{path} is too long for a conversation")
    try:
        return msgspec.json.decode(raw, type=SavedConversation)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(f"{path} is no conversation: {error}") from error


def _resolve(path: str) -> Path:
    try:
        return absolute_path(path)
    except ValueError as error:
        raise InvalidRequest(f"{path!r} is no path: {error}") from error
