"""Read the corpus: the topics of the model, their wordings, and topics outside of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
HELD_OUT = Path(__file__).parent / "held_out"
TOPIC_FILES = ("local_ai", "computing", "science", "chat", "creative")
CREATIVE_KINDS = ("story", "poem", "haiku", "joke")
ARTICLES = ("a ", "an ", "the ")

HONEST = (
    "I am only a demo model of two million parameters and was not taught this. "
    "Ask me about local AI, computing, science, capitals or small sums, or for a story or a joke."
)


@dataclass(frozen=True)
class Topic:
    """An answer and the questions for it.

    Attributes:
        kind: "concept" (templates apply to its names), "plain" (hand-written questions only), or a
            creative kind such as "story" (its names are subjects; without names it is the default).
        key: The name of this topic in the held-out files.
        more: The answer to "tell me more", if there is one.
    """

    kind: str
    key: str
    names: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    more: str = ""


@dataclass(frozen=True)
class Corpus:
    """The source material of all training examples."""

    topics: list[Topic]
    templates: dict[str, list[str]]
    system_messages: dict[str, list[str]]
    words: dict[str, list[str]]
    phrases: dict[str, list[str]]
    capitals: dict[str, str]
    first_names: list[str]
    proper_case: list[str]
    untaught_topics: list[str]
    untaught_questions: list[str]
    untaught_places: list[str]
    foreign_words: list[list[str]]
    tools: dict[str, list[str]]
    clock_questions: dict[str, list[str]]
    large_sums: dict[str, list[str]]
    time_zones: dict[str, str]
    fields: dict[str, list[str]]

    def get_topics(self, *kinds: str) -> list[Topic]:
        """Return the topics of the given kinds, in the order of the files."""
        return [topic for topic in self.topics if topic.kind in kinds]


def load_corpus() -> Corpus:
    return Corpus(
        topics=[topic for name in TOPIC_FILES for topic in read_topics(CORPUS / f"{name}.txt")],
        templates=read_sections(CORPUS / "templates.txt"),
        system_messages=read_sections(CORPUS / "system_messages.txt"),
        words={
            section: " ".join(lines).split()
            for section, lines in read_sections(CORPUS / "words.txt").items()
        },
        phrases=read_sections(CORPUS / "phrases.txt"),
        capitals=dict(line.split(": ") for line in read_lines(CORPUS / "capitals.txt")),
        first_names=" ".join(read_lines(CORPUS / "first_names.txt")).split(),
        proper_case=" ".join(read_lines(CORPUS / "proper_case.txt")).split(),
        untaught_topics=read_lines(CORPUS / "untaught_topics.txt"),
        untaught_questions=read_lines(CORPUS / "untaught_questions.txt"),
        untaught_places=read_lines(CORPUS / "untaught_places.txt"),
        foreign_words=[
            line.split(": ")[1].split() for line in read_lines(CORPUS / "foreign_words.txt")
        ],
        tools=read_sections(CORPUS / "tools.txt"),
        clock_questions=read_sections(CORPUS / "clock_questions.txt"),
        large_sums=read_sections(CORPUS / "large_sums.txt"),
        time_zones=dict(line.split(": ") for line in read_lines(CORPUS / "time_zones.txt")),
        fields=read_sections(CORPUS / "fields.txt"),
    )


def load_held_out_questions() -> set[str]:
    """Load the normalized questions that must not occur in training."""
    scoped = read_lines(HELD_OUT / "paraphrases.txt")
    scoped += read_lines(HELD_OUT / "tools.txt")
    questions = [re.split(r" =>? ", line)[0] for line in scoped]
    return {normalize(text) for text in questions + read_lines(HELD_OUT / "out_of_scope.txt")}


def normalize(text: str) -> str:
    """Remove case and punctuation."""
    return " ".join("".join(c for c in text.lower() if c.isalnum() or c == " ").split())


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file without comments and empty lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def read_sections(path: Path) -> dict[str, list[str]]:
    """Read the lines of a file by their [section] headings."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in read_lines(path):
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        else:
            current.append(line)
    return sections


def read_topics(path: Path) -> list[Topic]:
    """Parse a topic file: `@ names`, `? question` lines, `> answer`, and optionally `+ more`."""
    entries = re.split(r"^@ ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [_parse_topic(entry) for entry in entries if entry.strip()]


def strip_article(name: str) -> str:
    """Remove the article of a noun phrase: `a token` becomes `token`."""
    for article in ARTICLES:
        if name.startswith(article):
            return name.removeprefix(article)
    return name


def _parse_topic(entry: str) -> Topic:
    header, _, body = entry.partition("\n")
    questions = tuple(line[2:] for line in body.splitlines() if line.startswith("? "))
    answer, _, more = body[body.index("> ") :].partition("\n+ ")
    answer = re.sub(r"^> ?", "", answer, flags=re.MULTILINE).strip()
    kind, key, names = _parse_header(header.strip())
    return Topic(kind, key, names, questions, answer, more.strip())


def _parse_header(header: str) -> tuple[str, str, tuple[str, ...]]:
    if header.startswith("- "):
        return "plain", header[2:], ()
    if header.startswith("* "):
        kind, _, subjects = header[2:].partition(":")
        names = tuple(name.strip() for name in subjects.split("|") if name.strip())
        return kind, f"{kind}: {names[0]}" if names else f"{kind}:", names
    names = tuple(name.strip() for name in header.split("|"))
    return "concept", names[0], names
