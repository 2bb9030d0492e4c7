"""The answers of the scripted model and their delays."""

from __future__ import annotations

from dataclasses import dataclass

BEGIN_THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Script:
    """One answer of the model.

    Args:
        keyword: The word in the prompt that selects this answer. It must not begin with `t`, as SDK
            1.2.4's tokenizer would lose the end of the prompt. It needs eight bytes or more to be
            found in requests with tools.
        text: The answer. Each token is a UTF-8 byte.
        marked: Whether `<tool_call>`, `<think>` etc. are special tokens in this text, by which an
            engine detects calls and reasoning; otherwise they are ordinary text.
        repeats: Whether the text is repeated endlessly.
        prefill_ms: Milliseconds before the first token, on an idle core.
        ms_per_token: Milliseconds before each later token, on an idle core.
    """

    keyword: str
    text: str
    marked: bool = False
    repeats: bool = False
    prefill_ms: int = 0
    ms_per_token: int = 0

    def __post_init__(self) -> None:
        """Reject scripts that the graph cannot express."""
        if not self.keyword:
            raise ValueError("a script needs a keyword")
        if self.keyword.startswith("t"):
            raise ValueError(f"{self.keyword}: a keyword may not begin with t")
        if self.repeats and not self.text:
            raise ValueError(f"{self.keyword}: an empty text cannot repeat")

    @property
    def reasoning(self) -> str:
        """The text between the reasoning markers."""
        return (
            self.text.removeprefix(BEGIN_THINK).partition(END_THINK)[0]
            if self._has_reasoning
            else ""
        )

    @property
    def content(self) -> str:
        """The answer without its reasoning."""
        return self.text.partition(END_THINK)[2] if self._has_reasoning else self.text

    @property
    def _has_reasoning(self) -> bool:
        return self.text.startswith(BEGIN_THINK)


SORTED_JSON = '{"born": 1815, "languages": ["en", "fr"], "name": "Ada"}'
"""An object that is valid under a schema: the engine requires alphabetical order of properties."""

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
    Script("say-slowly", "tock ", repeats=True, ms_per_token=20),
    Script("say-at-a-crawl", "tack ", repeats=True, ms_per_token=150),
    Script("say-after-a-while", "Sorry to be late.", prefill_ms=1500),
    Script("say-stop", "one two STOP three four"),
    Script("say-json", SORTED_JSON),
    Script("say-think", "<think>Six times seven.</think>42"),
)
"""Plain text. The first one answers a prompt without a keyword."""

CALCULATE = '{"name": "calculate", "arguments": {"expression": "6 * 7"}}'
"""The call of most scripts, in the Hermes format."""

NATIVE_CALCULATE = '[{"name": "calculate", "parameters": {"expression": "6 * 7"}}]'
"""The same call in the format that SDK 2.2.1 requires."""

MARKED_SCRIPTS = (
    Script("reason-aloud", "<think>Six times seven.</think>42", marked=True),
    Script("reason-only", "<think>Six times seven.</think>", marked=True),
    Script(
        "reason-then-call",
        f"<think>A sum.</think>\n<tool_call>{NATIVE_CALCULATE}</tool_call>",
        marked=True,
    ),
    Script("call-calculator", f"<tool_call>{NATIVE_CALCULATE}</tool_call>", marked=True),
    Script(
        "call-two-tools",
        f"<tool_call>{NATIVE_CALCULATE[:-1]}, "
        '{"name": "clock", "parameters": {"city": "Zürich"}}]</tool_call>',
        marked=True,
    ),
    Script(
        "call-after-words",
        f"Let me see.\n<tool_call>{NATIVE_CALCULATE}</tool_call>",
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
"""Reasoning and tool calls with special tokens, which an engine detects.

The last one answers a tool result without a keyword: the chat template adds its keyword.
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
"""Tool calls in ordinary tokens, as models write them that no engine supports."""

ALL_SCRIPTS = (*SCRIPTS, *MARKED_SCRIPTS, *TEXT_CALLS)
"""All scripts of the model of the tests."""


def script(keyword: str) -> Script:
    """Return the script with a keyword."""
    return next(candidate for candidate in ALL_SCRIPTS if candidate.keyword == keyword)
