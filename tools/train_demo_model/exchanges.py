"""Generate exchanges, each a question with its answer, from the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from corpus import CREATIVE_KINDS, HONEST, Corpus, Topic, strip_article

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from paraphrase import Paraphraser

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_TERM = 20
MAX_FACTOR = 12


@dataclass(frozen=True)
class Exchange:
    """A question with its answer, and the topic if follow-ups can refer to it."""

    question: str
    answer: str
    kind: str
    topic: Topic | None = None


class Exchanges:
    """Draws random exchanges about topics of the corpus, and about others with the HONEST answer.

    `shares` are the relative frequencies of the kinds.
    """

    def __init__(self, corpus: Corpus, rng: random.Random, paraphraser: Paraphraser) -> None:
        self._corpus = corpus
        self._rng = rng
        self._paraphraser = paraphraser
        self._concepts = corpus.get_topics("concept")
        self._plain = corpus.get_topics("plain")
        self._with_questions = [t for t in corpus.topics if t.kind == "concept" and t.questions]
        self._creative = {kind: corpus.get_topics(kind) for kind in CREATIVE_KINDS}
        self._sources: dict[str, Callable[[], Exchange]] = {
            "concept": self.concept,
            "plain": self.plain,
            "creative": self.creative,
            "capital": self.capital,
            "sum": self.sum,
            "untaught": self.untaught,
        }
        self.shares = dict.fromkeys(self._sources, 1.0)
        self._untaught_sources: list[tuple[float, Callable[[], str]]] = [
            (0.20, self._untaught_concept),
            (0.16, self._untaught_question),
            (0.05, self._spliced_question),
            (0.17, self._untaught_aspect),
            (0.04, self._taught_question_astray),
            (0.09, self._untaught_creative),
            (0.09, self._untaught_capital),
            (0.08, self._untaught_sum),
            (0.07, self._foreign),
            (0.05, self._gibberish),
        ]

    def draw(self) -> Exchange:
        """Draw an exchange of any kind."""
        kind = self._rng.choices(list(self.shares), list(self.shares.values()))[0]
        return self._sources[kind]()

    def concept(self) -> Exchange:
        """Draw an explanation, requested with a template or with a wording of its topic."""
        topic = self._rng.choice(self._concepts)
        if topic.questions and self._rng.random() < 0.3:
            template = self._rng.choice(topic.questions)
        else:
            template = self._template("concept", self._rng.choice(topic.names))
        answer = get_first_sentence(topic.answer) if "one sentence" in template else topic.answer
        return Exchange(self._paraphraser.vary(template), answer, "concept", topic)

    def plain(self) -> Exchange:
        """Draw small talk or another question with only hand-written wordings."""
        topic = self._rng.choice(self._plain)
        question = self._rng.choice(topic.questions)
        small_talk = len(question.split()) < 4
        varied = self._paraphraser.vary(question, small_talk=small_talk)
        return Exchange(varied, topic.answer, "plain", topic)

    def creative(self) -> Exchange:
        """Draw a story, a poem, a haiku or a joke."""
        topic = self._rng.choice(self._creative[self._rng.choice(CREATIVE_KINDS)])
        if topic.names:
            question = self._template(topic.kind, self._rng.choice(topic.names))
        else:
            question = self._rng.choice(self._corpus.templates[f"{topic.kind}-any"])
        return Exchange(self._paraphraser.vary(question), topic.answer, topic.kind, topic)

    def capital(self, section: str = "capital") -> Exchange:
        """Draw the capital of a country; the section "capital-follow" makes it a follow-up."""
        country, city = self._rng.choice(list(self._corpus.capitals.items()))
        spoken = country if self._rng.random() < 0.8 else country.removeprefix("the ")
        question = self._rng.choice(self._corpus.templates[section]).format(c=spoken)
        answer = f"The capital of {country} is {city}."
        return Exchange(self._paraphraser.vary(question), answer, "capital")

    def sum(self) -> Exchange:
        """Draw a sum, difference, product or quotient of small numbers."""
        section = self._rng.choice(("add", "subtract", "multiply", "divide"))
        a, b, sign, result = self._small_numbers(section)
        template = self._rng.choice(self._corpus.templates[section])
        spelled = template.replace("{a}", "").replace("{b}", "").count(" ") > 1
        as_words = spelled and not set("+-*/=") & set(template) and self._rng.random() < 0.3
        terms = {"a": self._number(a, as_word=as_words), "b": self._number(b, as_word=as_words)}
        question = self._paraphraser.vary(template.format(**terms))
        return Exchange(question, f"{a} {sign} {b} is {result}.", "sum")

    def untaught(self) -> Exchange:
        """Draw a question outside the corpus."""
        weights, sources = zip(*self._untaught_sources, strict=True)
        question = self._rng.choices(sources, weights)[0]()
        return Exchange(self._paraphraser.vary(question), HONEST, "untaught")

    def unknown_phrase(self) -> str:
        """Draw a noun phrase that is not in the corpus."""
        choice = self._rng.random()
        noun = self._rng.choice(self._corpus.untaught_topics)
        if choice < 0.6:
            return noun
        if choice < 0.75:
            return f"{self._rng.choice(self._corpus.words['adjectives'])} {strip_article(noun)}"
        if choice < 0.85:
            topic = self._rng.choice(self._corpus.untaught_topics)
            return f"{noun} {self._rng.choice(('and', 'of', 'in', 'with', 'for'))} {topic}"
        return self.invented_word()

    def invented_word(self) -> str:
        """Draw a word that does not exist."""
        parts = self._corpus.words["syllables"] + self._corpus.words["endings"]
        word = "".join(self._rng.choices(parts, k=self._rng.randint(2, 4)))
        return f"{self._rng.choice(('', '', 'a ', 'the '))}{word}"

    def invented_name(self) -> str:
        """Draw a first name from the list, or an invented one."""
        # Invented names make the model copy names instead of recalling them.
        if self._rng.random() < 0.5:
            return self._rng.choice(self._corpus.first_names)
        syllables = self._corpus.words["syllables"]
        return "".join(self._rng.choices(syllables, k=self._rng.randint(2, 3))).capitalize()

    def _template(self, section: str, name: str) -> str:
        template = self._rng.choice(self._corpus.templates[section])
        return template.format(x=name, n=strip_article(name))

    def _small_numbers(self, section: str) -> tuple[int, int, str, int]:
        if section in ("add", "subtract"):
            a, b = (self._rng.randint(0, MAX_TERM) for _ in range(2))
            if section == "add":
                return a, b, "+", a + b
            return max(a, b), min(a, b), "-", abs(a - b)
        a, b = (self._rng.randint(0, MAX_FACTOR) for _ in range(2))
        if section == "multiply":
            return a, b, "*", a * b
        b = max(b, 1)
        return a * b, b, "/", a

    def _number(self, value: int, *, as_word: bool) -> str:
        return self._corpus.words["numbers"][value] if as_word and value <= MAX_TERM else str(value)

    def _untaught_concept(self) -> str:
        return self._template("concept", self.unknown_phrase())

    def _untaught_question(self) -> str:
        return self._rng.choice(self._corpus.untaught_questions)

    def _spliced_question(self) -> str:
        first, second = (self._untaught_question().split() for _ in range(2))
        return " ".join(first[: (len(first) + 1) // 2] + second[len(second) // 2 :])

    def _untaught_aspect(self) -> str:
        """Draw a question about an unknown aspect, often of a topic of the corpus."""
        template = self._rng.choice(self._corpus.templates["untaught"])
        unknown = self.unknown_phrase()
        name = unknown
        if self._rng.random() < 0.4 and "{m}" not in template:
            name = self._rng.choice(self._rng.choice(self._concepts).names)
        topic = self._rng.choice(self._corpus.untaught_topics)
        return template.format(x=name, n=strip_article(name), m=strip_article(topic))

    def _taught_question_astray(self) -> str:
        """Replace the longest word of a question of the corpus."""
        topic = self._rng.choice(self._with_questions)
        words = self._rng.choice(topic.questions).split()
        longest = max(range(len(words)), key=lambda i: len(words[i]))
        words[longest] = strip_article(self._rng.choice(self._corpus.untaught_topics))
        return " ".join(words)

    def _untaught_creative(self) -> str:
        return self._template(self._rng.choice(CREATIVE_KINDS), self.unknown_phrase())

    def _untaught_capital(self) -> str:
        place = self._rng.choice(self._corpus.untaught_places)
        if self._rng.random() < 0.5:
            place = self.invented_word().capitalize()
        return self._rng.choice(self._corpus.templates["capital"]).format(c=place)

    def _untaught_sum(self) -> str:
        template = self._rng.choice(self._corpus.templates["untaught-sum"])
        a, b = (self._rng.randint(0, 10 ** self._rng.randint(1, 6)) for _ in range(2))
        division = "/" in template or "divided" in template
        largest = MAX_FACTOR**2 if division else MAX_TERM
        if max(a, b) <= largest:
            a += largest + 1
        return template.format(a=a, b=b)

    def _foreign(self) -> str:
        words = self._rng.choice(self._corpus.foreign_words)
        return " ".join(self._rng.choices(words, k=self._rng.randint(2, 9)))

    def _gibberish(self) -> str:
        if self._rng.random() < 0.5:
            return " ".join(self.invented_word() for _ in range(self._rng.randint(1, 5)))
        lengths = [self._rng.randint(1, 9) for _ in range(self._rng.randint(1, 4))]
        return " ".join("".join(self._rng.choices(LETTERS, k=n)) for n in lengths)


def get_first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."
