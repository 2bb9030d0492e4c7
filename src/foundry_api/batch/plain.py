"""The commonest bodies, found sound at once: prompts and conversations with the usual numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from foundry_api.arguments import MAX_SEED, MAX_TEMPERATURE, MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_plain_chat"]


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Turn], Meta(min_length=1)]
    model: str | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-MAX_SEED - 1, le=MAX_SEED)] | UnsetType = UNSET


def is_plain_chat(body: Mapping[str, Any]) -> bool:
    """Whether a chat completion is certainly one that the service can't refuse for its form.

    Of the others this says nothing. It takes a tenth of the time of a look at each member, which
    counts in a file of millions.

    Args:
        body: As it was given.
    """
    try:
        chat = msgspec.convert(body, _Chat)
    except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair is the second
        return False
    texts = [turn.content for turn in chat.messages]
    if chat.model is not UNSET:
        texts.append(chat.model)
    return all(map(_is_sendable, texts))


def _is_sendable(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return not text.isspace() and bool(text) and "\0" not in text
