"""Turn conversations into padded batches in which only the answers contribute to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from corpus import HONEST
from protocol import CALL_START
from vocabulary import END, PAD, ROLE_TOKENS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from conversations import Conversations, Message
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
TOKENS_PER_BATCH = 2048
POOL_SIZE = 512
LONG_SHARE = 0.06
MAX_QUESTION_WORDS = 1200
CUT_LENGTH = 8
MAX_UNCUT = 16
HONEST_CUT_SHARE = 0.9

Row = tuple[list[int], list[int]]


class Batches:
    """An endless stream of (input ids, labels) pairs.

    Rows of similar length share a batch, so that it has little padding. `cut_share` is the share of
    final answers that are cut after their first tokens.
    """

    def __init__(
        self, conversations: Conversations, tokenizer: PreTrainedTokenizerFast, rng: random.Random
    ) -> None:
        self.cut_share = 0.0
        self._conversations = conversations
        self._tokenizer = tokenizer
        self._rng = rng
        self._end = tokenizer.convert_tokens_to_ids(END)
        self._pad = tokenizer.convert_tokens_to_ids(PAD)
        self._roles = {
            role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLE_TOKENS.items()
        }

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            pool = self.encode([self._conversations.draw() for _ in range(POOL_SIZE)])
            groups = list(_sort_by_length(pool))
            self._rng.shuffle(groups)
            for group in groups:
                if self._rng.random() < LONG_SHARE:
                    yield self._long_batch()
                yield self._pad_rows(group)

    def encode(self, conversations: list[list[Message]]) -> list[Row]:
        """Encode each conversation into token ids and labels."""
        contents = [
            text
            for messages in conversations
            for message in messages
            for text, _ in split_segments(message)
        ]
        encoded = iter(self._tokenizer(contents, add_special_tokens=False)["input_ids"])
        return [self._row(messages, encoded) for messages in conversations]

    def _row(self, messages: list[Message], encoded: Iterator[list[int]]) -> Row:
        ids: list[int] = []
        labels: list[int] = []
        for message in messages:
            ids.append(self._roles[message["role"]])
            labels.append(IGNORED)
            started, is_learned = len(ids), False
            for _, is_learned in split_segments(message):
                content = next(encoded)
                ids += content
                labels += content if is_learned else [IGNORED] * len(content)
            ids.append(self._end)
            labels.append(self._end if is_learned else IGNORED)
        if "segments" in messages[-1]:
            return ids, labels
        text, length = messages[-1]["content"], len(ids) - started
        if any(message["role"] == "tool" for message in messages) or CALL_START in text:
            return ids, labels
        cut = self._cut(length, honest=text.endswith(HONEST))
        return ids[: len(ids) - cut], labels[: len(labels) - cut]

    def _cut(self, length: int, *, honest: bool) -> int:
        """Draw how many tokens of the last answer to leave out."""
        # Choosing the right answer happens in its first tokens and needs many examples; continuing
        # it needs few. Cut answers give two to three times as many examples per second. A short
        # answer, such as that to a sum, has its content at the end and is never cut.
        share = HONEST_CUT_SHARE if honest and self.cut_share else self.cut_share
        if length > MAX_UNCUT and self._rng.random() < share:
            return length - CUT_LENGTH
        return 0

    def _long_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a batch of one very long question with its complete answer."""
        words = self._rng.randint(100, MAX_QUESTION_WORDS)
        share, self.cut_share = self.cut_share, 0.0
        row = self.encode([self._conversations.draw_long(words)])
        self.cut_share = share
        return self._pad_rows(row)

    def _pad_rows(self, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(ids) for ids, _ in rows)
        ids = [ids + [self._pad] * (width - len(ids)) for ids, _ in rows]
        labels = [labels + [IGNORED] * (width - len(labels)) for _, labels in rows]
        return torch.tensor(ids), torch.tensor(labels)


def split_segments(message: Message) -> tuple[tuple[str, bool], ...]:
    """Split a message into texts, each with whether it is learned."""
    if "segments" in message:
        return message["segments"]
    text = message["content"]
    return ((text, bool(message["role"] == "assistant" and text)),)


def _sort_by_length(rows: list[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row[0])):
        if group and (len(group) + 1) * len(row[0]) > TOKENS_PER_BATCH:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
