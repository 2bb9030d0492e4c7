"""Makes a conversation fit the model's context, by leaving turns out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from foundry_api.observe.format import format_count
from foundry_api.types.errors import ContextOverflow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from foundry_api.cli.conversation.transcript import Transcript
    from foundry_api.types.messages import Message, Usage

__all__ = ["CONTEXT_POLICIES", "ContextPolicy", "ContextWindow"]

_T = TypeVar("_T")  # the result of a call

ContextPolicy = Literal["trim", "keep", "error"]
CONTEXT_POLICIES: tuple[ContextPolicy, ...] = get_args(ContextPolicy)

# Tokens that are left free for the answer, or this share of a small context.
ANSWER_TOKENS = 1024
ANSWER_SHARE = 4
# After an overflow, at least this share of the characters goes, so that few attempts are needed.
OVERFLOW_SHARE = 4


class ContextWindow:
    """Knows how much of a conversation fits, from the counts of the service.

    Args:
        policy: `trim` leaves out the oldest turns, `keep` those after the first one, which often
            has the task, and `error` none.
        context_length: Tokens in the model's context; None until the service says it.
    """

    def __init__(self, policy: ContextPolicy, context_length: int | None = None) -> None:
        self.policy: ContextPolicy = policy
        self.context_length = context_length
        self._tokens_per_character: float | None = None

    def learn(self, messages: Sequence[Message], usage: Usage, *, is_full: bool) -> None:
        """Learn from a call; `is_full` says that the answer was cut at the end of the context."""
        if usage.prompt_tokens:
            self._tokens_per_character = usage.prompt_tokens / max(_count(messages), 1)
        if is_full:
            self.context_length = usage.total_tokens

    def send(
        self,
        transcript: Transcript,
        others: Sequence[Message],
        max_tokens: int | None,
        call: Callable[[Sequence[Message]], _T],
        echo: Callable[[str], object],
    ) -> _T:
        """Call a model with the turns that fit, and others if they did not. Raises FoundryError.

        Args:
            transcript: The turns.
            others: What is sent besides them: the system message and the question, which is last.
            max_tokens: Length of the answer, if it was set.
            call: Calls the model with messages.
            echo: Called with what to tell the user.
        """
        before = transcript.omitted
        if omitted := self.make_room(transcript, others, max_tokens):
            echo(self.describe(omitted))
        while True:
            try:
                return call([*others[:-1], *transcript.sent_messages, others[-1]])
            except ContextOverflow as error:
                omitted = self.recover(transcript, others, error)
                if not omitted:
                    transcript.omitted = before  # leaving turns out did not help
                    raise
                echo(self.describe(omitted))

    def make_room(
        self, transcript: Transcript, others: Sequence[Message], max_tokens: int | None
    ) -> int:
        """Omit turns until the estimate fits. Return how many were omitted.

        Args:
            transcript: The turns.
            others: What is sent besides them: the system message and the question.
            max_tokens: Length of the answer, if it was set.
        """
        if self.context_length is None or self._tokens_per_character is None:
            return 0
        if _count(others) * self._tokens_per_character >= self.context_length:
            return 0  # the question alone is too long
        reserve = min(max_tokens or ANSWER_TOKENS, self.context_length // ANSWER_SHARE)
        limit = int((self.context_length - reserve) / self._tokens_per_character)
        return self._omit_until(transcript, limit - _count(others))

    def recover(
        self, transcript: Transcript, others: Sequence[Message], error: ContextOverflow
    ) -> int:
        """Omit turns after a prompt was too long. Return how many; 0 if none can be omitted."""
        if self.policy == "error":
            return 0
        size = _count(transcript.sent_messages)
        if error.context_length and error.prompt_tokens:
            self.context_length = error.context_length
            self._tokens_per_character = error.prompt_tokens / max(size + _count(others), 1)
            if _count(others) * self._tokens_per_character >= self.context_length:
                return 0  # the question alone is too long
        omitted = self.make_room(transcript, others, error.max_tokens)
        left = _count(transcript.sent_messages)
        limit = size - max(size // OVERFLOW_SHARE, 1)
        return omitted + (self._omit_until(transcript, limit) if left > limit else 0)

    def _omit_until(self, transcript: Transcript, limit: int) -> int:
        if self.policy == "error":
            return 0
        transcript.kept = 1 if self.policy == "keep" else 0
        omitted, size = 0, _count(transcript.sent_messages)
        while size > limit and (turn := transcript.get_oldest()) is not None:
            size -= _count(turn)
            transcript.omitted += 1
            omitted += 1
        return omitted

    def describe(self, omitted: int) -> str:
        """Return the notice about turns that were omitted."""
        turns, verb = format_count(omitted, "turn"), "is" if omitted == 1 else "are"
        which = "after the first" if self.policy == "keep" else "at the start"
        length = f" of {self.context_length:,} tokens" if self.context_length else ""
        return (
            f"The conversation outgrew the model's context{length}: "
            f"{turns} {which} {verb} no longer sent."
        )


def _count(messages: Sequence[Message]) -> int:
    """Count characters, with those of tool calls."""
    return sum(
        len(message.content) + sum(len(call.function.arguments) for call in message.tool_calls)
        for message in messages
    )
