"""What the scripted model says, and how long it takes to say it."""

from __future__ import annotations

from dataclasses import dataclass

COST_OF_A_MILLISECOND = 3
"""Iterations of the graph's busy loop in about a millisecond.

Measured on one idle core of a server; a slow or busy machine takes several times as long.
"""

THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Script:
    """One answer of the model.

    Args:
        keyword: The word that, anywhere in the prompt, asks for this answer.
        text: The answer, emitted one UTF-8 byte a token.
        repeats: Start again at the end of the text, for ever.
        prefill_cost: Iterations of the busy loop before the first token.
        cost_per_token: Iterations of the busy loop before each later token.
    """

    keyword: str
    text: str
    repeats: bool = False
    prefill_cost: int = 0
    cost_per_token: int = 0

    def __post_init__(self) -> None:
        """Refuse what the graph could not express."""
        if not self.keyword:
            raise ValueError("a script needs a keyword")
        if self.repeats and not self.text:
            raise ValueError(f"{self.keyword}: an empty text cannot repeat")

    @property
    def reasoning(self) -> str:
        """What stands between the markers of reasoning, ahead of the answer."""
        return self.text.removeprefix(THINK).partition(THOUGHT)[0] if self._thinks else ""

    @property
    def content(self) -> str:
        """The answer without its reasoning."""
        return self.text.partition(THOUGHT)[2] if self._thinks else self.text

    @property
    def _thinks(self) -> bool:
        return self.text.startswith(THINK)


SORTED_JSON = '{"born": 1815, "languages": ["en", "fr"], "name": "Ada"}'
"""An object that passes under a schema: the engine demands the properties in alphabetical order."""

SCRIPTS = (
    Script("say-default", "No keyword was found in the prompt."),
    Script("say-hello", "Hello, world!"),
    Script(
        "say-multibyte",
        "Crème brûlée, déjà vu. "
        "日本語と한국어。 "
        "\N{GRINNING FACE} "
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} "
        "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} "
        "e\N{COMBINING ACUTE ACCENT}.",
    ),
    Script("say-lines", 'first line\n\tindented "quoted"\ntrailing spaces  \n\nC:\\path\\to\\n\n'),
    Script("say-nothing", ""),
    Script("say-long", " ".join(f"w{index}" for index in range(142))),
    Script("say-forever", "tick ", repeats=True),
    Script("say-slowly", "tock ", repeats=True, cost_per_token=20 * COST_OF_A_MILLISECOND),
    Script("say-at-a-crawl", "tack ", repeats=True, cost_per_token=150 * COST_OF_A_MILLISECOND),
    Script("say-after-a-while", "Sorry to be late.", prefill_cost=1500 * COST_OF_A_MILLISECOND),
    Script("say-stop", "one two STOP three four"),
    Script("say-json", SORTED_JSON),
    Script("say-think", "<think>Six times seven.</think>42"),
)
"""The scripts of the test-suite. The first one answers a prompt that holds no keyword."""


def script(keyword: str) -> Script:
    """Return the script of the test-suite that `keyword` asks for."""
    return next(candidate for candidate in SCRIPTS if candidate.keyword == keyword)
