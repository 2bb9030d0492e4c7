"""The model's tokenizer: a token is a byte, a marker, or a keyword.

With one token per byte, token counts are known, and multi-byte characters span several tokens,
which tests streaming decoders. A keyword is one token, so that the graph can look it up.
"""

from __future__ import annotations

import re
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Final

from .scripts import ALL_SCRIPTS, Script

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MESSAGE_START: Final = "<|im_start|>"
MESSAGE_END: Final = "<|im_end|>"

BYTE_VALUES: Final = range(256)
MARKERS: Final = {MESSAGE_START: 256, MESSAGE_END: 257}
BEGIN_CALL, END_CALL, BEGIN_REASONING, END_REASONING = range(258, 262)
ANSWER_MARKERS: Final = {
    "<tool_call>": BEGIN_CALL,
    "</tool_call>": END_CALL,
    "<think>": BEGIN_REASONING,
    "</think>": END_REASONING,
}
"""The markers of calls and reasoning in an answer."""
FIRST_KEYWORD: Final = 262
KEYWORD_BYTES: Final = 8
"""Number of bytes by which a keyword is identified if it is not encoded as one token."""

FRAME: Final = b"MESSAGE\n"
FRAMING: Final = b"MESSAGE "
"""With tools, SDK 2.2.1 requires FRAME before a text and removes it from the answer."""

END_OF_ANSWER: Final = MARKERS[MESSAGE_END]

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'tool' %}{{ '<tool_response>' }}{% endif %}"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% if message['tool_calls'] %}"
    "{% for call in message['tool_calls'] %}"
    "{{ '<tool_call>' + call['function']['name'] + '</tool_call>' }}"
    "{% endfor %}"
    "{% endif %}"
    "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML. `prompt_tokens` is the same in Python."""


def keyword_tokens(scripts: Sequence[Script]) -> dict[str, int]:
    """Number the keywords, and reject a set in which one is part of another."""
    keywords = [script.keyword for script in scripts]
    for keyword in keywords:
        if sum(keyword in other for other in keywords) > 1:
            raise ValueError(f"the keyword {keyword!r} is not unique or is part of another")
    if len({keyword.encode()[:KEYWORD_BYTES] for keyword in keywords}) < len(keywords):
        raise ValueError(f"two keywords begin with the same {KEYWORD_BYTES} bytes")
    return dict(zip(keywords, count(FIRST_KEYWORD)))


def vocabulary_size(scripts: Sequence[Script]) -> int:
    """Return the number of bytes, markers and keywords."""
    return FIRST_KEYWORD + len(scripts)


def encode_script(script: Script) -> list[int]:
    """Encode a script in bytes, with the markers as special tokens if it is marked."""
    if not script.marked:
        return [*script.text.encode()]
    parts = re.split(f"({'|'.join(ANSWER_MARKERS)})", script.text)
    return [
        token
        for part in parts
        for token in ([ANSWER_MARKERS[part]] if part in ANSWER_MARKERS else part.encode())
    ]


def completion_tokens(text: str) -> int:
    """Return the completion tokens that the engine counts for `text`, which is one per byte."""
    return len(text.encode())


def prompt_tokens(
    messages: Iterable[Mapping[str, Any]], scripts: Sequence[Script] = ALL_SCRIPTS
) -> int:
    """Return the prompt tokens that the engine counts for `messages` under the chat template."""
    prompt = "".join(chain(map(_format_message, messages), [f"{MESSAGE_START}assistant\n"]))
    special = [*MARKERS, *ANSWER_MARKERS, *keyword_tokens(scripts)]
    remainder, tokens = re.subn("|".join(map(re.escape, special)), "", prompt)
    return tokens + len(remainder.encode())


def _format_message(message: Mapping[str, Any]) -> str:
    response = "<tool_response>" if message["role"] == "tool" else ""
    calls = "".join(
        f"<tool_call>{call['function']['name']}</tool_call>"
        for call in message.get("tool_calls", ())
    )
    content = f"{response}{message['content']}{calls}"
    return f"{MESSAGE_START}{message['role']}\n{content}{MESSAGE_END}\n"


def make_tokenizer_json(scripts: Sequence[Script]) -> dict[str, Any]:
    """Make the tokenizer file of the `tokenizers` library."""
    markers = {**MARKERS, **ANSWER_MARKERS}
    added = [_make_added_token(token, text, special=True) for text, token in markers.items()]
    added += [
        _make_added_token(token, text, special=False)
        for text, token in keyword_tokens(scripts).items()
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {_get_printable(byte): byte for byte in BYTE_VALUES},
            "merges": [],
        },
    }


def make_tokenizer_config() -> dict[str, Any]:
    """Make the tokenizer's configuration: its class, special tokens and chat template."""
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": MESSAGE_START,
        "eos_token": MESSAGE_END,
        "pad_token": MESSAGE_END,
        "unk_token": MESSAGE_END,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def make_tokenizer_config_without_template() -> dict[str, Any]:
    """Make the configuration for a model without chat."""
    return {key: value for key, value in make_tokenizer_config().items() if key != "chat_template"}


def _make_added_token(token: int, text: str, *, special: bool) -> dict[str, Any]:
    """Describe a token that is matched in the text before it is split into bytes."""
    return {
        "id": token,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _get_printable(byte: int) -> str:
    """Return the character of a byte in a byte-level vocabulary.

    Bytes that are printable in Latin-1 keep their character; the others are numbered from U+0100.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printing:
        return chr(byte)
    return chr(0x100 + byte - sum(other < byte for other in printing))
