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
        keyword: The word that, anywhere in the prompt, asks for this answer: no `t` ahead, over
            which SDK 1.2.4's tokenizer loses the end of a prompt, and eight bytes or more, if
            it is to be found beside tools too.
        text: The answer, emitted one UTF-8 byte a token.
        marked: Whether `<tool_call>`, `<think>` and their like are the model's own tokens in this
            text, by which an engine knows calls and reasoning; else they are spelt like any text.
        repeats: Start again at the end of the text, for ever.
        prefill_cost: Iterations of the busy loop before the first token.
        cost_per_token: Iterations of the busy loop before each later token.
    """

    keyword: str
    text: str
    marked: bool = False
    repeats: bool = False
    prefill_cost: int = 0
    cost_per_token: int = 0

    def __post_init__(self) -> None:
        """Refuse what the graph could not express."""
        if not self.keyword:
            raise ValueError("a script needs a keyword")
        if self.keyword.startswith("t"):
            raise ValueError(f"{self.keyword}: a keyword may not begin with t")
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
"""What the model says as plain text. The first one answers a prompt that holds no keyword."""

CALCULATE = '{"name": "calculate", "arguments": {"expression": "6 * 7"}}'
"""The call that most scripts make, as Hermes' format has it."""

CALCULATE_NATIVELY = '[{"name": "calculate", "parameters": {"expression": "6 * 7"}}]'
"""The same as SDK 2.2.1 asks models to write it."""

MARKED_SCRIPTS = (
    Script("reason-aloud", "<think>Six times seven.</think>42", marked=True),
    Script("reason-only", "<think>Six times seven.</think>", marked=True),
    Script(
        "reason-then-call",
        f"<think>A sum.</think>\n<tool_call>{CALCULATE_NATIVELY}</tool_call>",
        marked=True,
    ),
    Script("call-calculator", f"<tool_call>{CALCULATE_NATIVELY}</tool_call>", marked=True),
    Script(
        "call-two-tools",
        f"<tool_call>{CALCULATE_NATIVELY[:-1]}, "
        '{"name": "clock", "parameters": {"city": "Zürich"}}]</tool_call>',
        marked=True,
    ),
    Script(
        "call-after-words",
        f"Let me see.\n<tool_call>{CALCULATE_NATIVELY}</tool_call>",
        marked=True,
    ),
    Script("call-bare-object", f"<tool_call>{CALCULATE}</tool_call>", marked=True),
    Script(
        "call-twice-apart",
        f"<tool_call>{CALCULATE}</tool_call>\n"
        '<tool_call>{"name": "clock", "arguments": {"city": "Zürich"}}</tool_call>',
        marked=True,
    ),
    Script(
        "call-malformed",
        '<tool_call>[{"name": "calculate", "parameters": {]</tool_call>',
        marked=True,
    ),
    Script("call-unclosed", '<tool_call>[{"name": "calculate", "parameters"', marked=True),
    Script(
        "call-unknown-tool",
        '<tool_call>[{"name": "launch_rocket", "parameters": {}}]</tool_call>',
        marked=True,
    ),
    Script(
        "call-wrong-arguments",
        '<tool_call>[{"name": "calculate", "parameters": {"formula": 6}}]</tool_call>',
        marked=True,
    ),
    Script("<tool_response>", "The tool has answered."),
)
"""What needs the model's own markers: reasoning, and tool calls that an engine knows as such.

The last one answers a tool's result without keyword: its keyword is what the template puts there.
"""

TEXT_CALLS = (
    Script("write-hermes", f"<tool_call>\n{CALCULATE}\n</tool_call>"),
    Script(
        "write-two-hermes",
        f"<tool_call>{CALCULATE}</tool_call>\n"
        '<tool_call>{"name": "clock", "arguments": {"city": "Zürich"}}</tool_call>',
    ),
    Script("write-after-words", f"Let me see.\n<tool_call>{CALCULATE}</tool_call>"),
    Script("write-bare", CALCULATE),
    Script("write-parameters", CALCULATE.replace("arguments", "parameters")),
    Script("write-fenced", f"```json\n{CALCULATE}\n```"),
    Script("write-list", f'[{CALCULATE}, {{"name": "clock", "arguments": {{"city": "Zürich"}}}}]'),
    Script("write-phi-4", f"<|tool_call|>[{CALCULATE}]<|/tool_call|>"),
    Script("write-functools", f"functools[{CALCULATE}]"),
    Script("write-mistral", f"[TOOL_CALLS] [{CALCULATE}]"),
    Script("write-llama", '<function=calculate>{"expression": "6 * 7"}</function>'),
    Script("write-openai", f'{{"type": "function", "function": {CALCULATE}}}'),
    Script(
        "write-string-arguments",
        '{"name": "calculate", "arguments": "{\\"expression\\": \\"6 * 7\\"}"}',
    ),
    Script("write-malformed", '<tool_call>{"name": "calculate", "arguments": {</tool_call>'),
    Script(
        "write-unknown-tool", '<tool_call>{"name": "launch_rocket", "arguments": {}}</tool_call>'
    ),
    Script("write-lookalike", 'Write {"name": "calculate"} or <tool_calls>, not a call.'),
)
"""Tool calls as models write them that no engine understands, spelt in ordinary tokens."""

ALL_SCRIPTS = (*SCRIPTS, *MARKED_SCRIPTS, *TEXT_CALLS)
"""Everything that the model of the test-suite can say."""


def script(keyword: str) -> Script:
    """Return the script of the test-suite that `keyword` asks for."""
    return next(candidate for candidate in ALL_SCRIPTS if candidate.keyword == keyword)
