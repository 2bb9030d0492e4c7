"""Vary the wording of questions, so that the model learns the meaning rather than one spelling."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from corpus import Corpus

STOP_WORDS = {"what", "is", "are", "the", "a", "an", "me", "to", "you", "do", "does", "can", "I"}
CONTRACTIONS = (
    (r"\bwhat is\b", "what's"),
    (r"\bwhat is\b", "whats"),
    (r"\bwhat are\b", "what're"),
    (r"\bI am\b", "I'm"),
    (r"\bI would like\b", "I'd like"),
    (r"\bdo not\b", "don't"),
    (r"\bhow is\b", "how's"),
    (r"\blet us\b", "let's"),
)
ENDINGS = ("", "", "", "?", "?", "?", ".", "!", "...", "??", " ?")


class Paraphraser:
    """Changes a question at random without changing its meaning.

    With `clean` it varies only case and punctuation.
    """

    def __init__(self, corpus: Corpus, rng: random.Random) -> None:
        self._rng = rng
        self._phrases = corpus.phrases
        self.clean = False
        self._proper = {word.lower(): word for word in corpus.proper_case}

    def vary(self, question: str, *, small_talk: bool = False) -> str:
        """Return the question in another wording, spelling, case and punctuation.

        With `small_talk`, such as a greeting, only one word is added around it.
        """
        text = question.rstrip("?")
        if self.clean:
            return self._end(self._case(text))
        text = self._contract(text)
        if not small_talk:
            text = self._embed(text)
        elif self._chance(0.25):
            text = self._rng.choice((f"{self._phrase('interjections')} {text}", f"{text} then"))
        if self._chance(0.12):
            text = self._drop_stop_words(text)
        text = self._case(text)
        if self._chance(0.12):
            text = self._misspell(text)
        return self._end(text)

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability

    def _contract(self, text: str) -> str:
        pattern, short = self._rng.choice(CONTRACTIONS)
        return re.sub(pattern, short, text)

    def _embed(self, text: str) -> str:
        if self._chance(0.12):
            words = text.split(" ")
            words.insert(self._rng.randint(0, len(words)), self._phrase("fillers"))
            text = " ".join(words)
        if self._chance(0.25):
            text = f"{self._phrase('openers')} {text}"
        if self._chance(0.15):
            text = f"{text}{self._rng.choice((' ', ', '))}{self._phrase('closers')}"
        return text

    def _phrase(self, section: str) -> str:
        return self._rng.choice(self._phrases[section])

    def _drop_stop_words(self, text: str) -> str:
        words = text.split(" ")
        remaining = [word for word in words if word not in STOP_WORDS or self._chance(0.5)]
        return " ".join(remaining) or text

    def _case(self, text: str) -> str:
        choice = self._rng.random()
        if choice < 0.3:
            return text.lower()
        if choice < 0.33:
            return text.upper()
        if choice < 0.36:
            return text.title()
        if self._chance(0.8):
            text = " ".join(self._proper.get(word, word) for word in text.split(" "))
            text = re.sub(r"(?i)foundry local", "Foundry Local", text)
        return text[:1].upper() + text[1:] if self._chance(0.75) else text

    def _misspell(self, text: str) -> str:
        words = text.split(" ")
        long_words = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
        if not long_words:
            return text
        index = self._rng.choice(long_words)
        words[index] = self._misspell_word(words[index])
        return " ".join(words)

    def _misspell_word(self, word: str) -> str:
        i = self._rng.randint(1, len(word) - 2)
        return self._rng.choice(
            (
                word[:i] + word[i + 1] + word[i] + word[i + 2 :],
                word[:i] + word[i + 1 :],
                word[:i] + word[i] + word[i:],
            )
        )

    def _end(self, text: str) -> str:
        if text and text[-1] in ".!?":
            return text
        return text + self._rng.choice(ENDINGS)
