"""Members of requests that several of OpenAI's routes have, and the options that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from foundry_api.gateway.checks import make_invalid, make_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.core.options import ChatOptions

__all__ = [
    "MAX_CHOICES",
    "CompletionsBody",
    "MaxTokens",
    "SamplingBody",
    "StreamOptions",
    "Temperature",
    "TopP",
    "get_choices",
    "make_options",
    "refuse_members",
    "refuse_unsupported",
]

MAX_CHOICES = 8

# The limits are described only: their checks are where the options are used, with better errors.
Temperature = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 2})]
TopP = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": 1})]
MaxTokens = Annotated[int, Meta(extra_json_schema={"minimum": 1})]
Choices = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": MAX_CHOICES})]


class StreamOptions(msgspec.Struct):
    """Options of a stream.

    Attributes:
        include_usage: Whether a last chunk has the token counts.
    """

    include_usage: bool | None = None


class SamplingBody(msgspec.Struct, kw_only=True):
    """What the bodies of all text routes have. Null means the default.

    Attributes:
        model: Alias or id of a model; default: that of the gateway's configuration.
        temperature: Default: the model's own.
        top_p: Default: the model's own.
        seed: Makes sampling repeatable if the engine supports it.
        stream: Whether to send events as they are generated.
    """

    model: str | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = None
    stream: bool | None = None


class CompletionsBody(SamplingBody, kw_only=True):
    """What the bodies of chat and text completions have. Null means the default.

    Attributes:
        max_tokens: Limit of an answer in tokens; lowered if the context has less room.
        stop: Up to four strings that end an answer.
        n: How many answers to generate.
        stream_options: Options of a stream.
        logit_bias: Refused: the engine cannot do it.
        presence_penalty: Refused unless it is 0: the engine has none.
        frequency_penalty: Refused unless it is 0: the engine has none.
    """

    max_tokens: MaxTokens | None = None
    stop: str | list[str] | None = None
    n: Choices | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def make_options(
    body: SamplingBody,
    model: str,
    *,
    max_tokens: int | None,
    stop: str | list[str] | None = None,
) -> ChatOptions:
    """Return the options of the client's call; members that are null stay out."""
    options: ChatOptions = {"model": model}
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if body.temperature is not None:
        options["temperature"] = body.temperature
    if body.top_p is not None:
        options["top_p"] = body.top_p
    if body.seed is not None:
        options["seed"] = body.seed
    if stop is not None:
        options["stop"] = stop
    return options


def refuse_unsupported(body: CompletionsBody) -> None:
    """Refuse what the engine cannot do for any completion.

    Raises:
        RequestError: 400.
    """
    refuse_members(
        (
            ("logit_bias", body.logit_bias, "The engine cannot bias single tokens."),
            ("presence_penalty", body.presence_penalty, "The engine has no presence penalty."),
            ("frequency_penalty", body.frequency_penalty, "The engine has no frequency penalty."),
        )
    )


def refuse_members(members: Iterable[tuple[str, object, str]]) -> None:
    """Refuse the first member that has a value; each has its name, its value and the reason.

    Raises:
        RequestError: 400.
    """
    for name, value, reason in members:
        if value:
            raise make_unsupported(name, reason)


def get_choices(n: int | None) -> int:
    """Return how many answers to generate.

    Raises:
        RequestError: None, or too many.
    """
    choices = 1 if n is None else n
    if not 1 <= choices <= MAX_CHOICES:
        raise make_invalid("n", f"n is {choices}; 1 to {MAX_CHOICES} are allowed.")
    return choices
