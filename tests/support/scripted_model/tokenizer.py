"""The model's tokenizer: a token is a byte, a marker, or a keyword.

One token a byte keeps the counts exact and splits every multi-byte character over tokens, which is
what shakes out streaming decoders. A keyword is one token so that the graph can look it up.
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
SPEECH_MARKERS: Final = {
    "<tool_call>": BEGIN_CALL,
    "</tool_call>": END_CALL,
    "<think>": BEGIN_REASONING,
    "</think>": END_REASONING,
}
"""What marks calls and reasoning off in an answer."""
FIRST_KEYWORD: Final = 262
SPELT: Final = 8
"""How many bytes tell a keyword from all others where it is spelt instead of one token."""

FRAME: Final = b"MESSAGE\n"
FRAMING: Final = b"MESSAGE "
"""Where SDK 2.2.1 offers tools, it asks for the frame ahead of text, and cuts it off again."""

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
"""ChatML. `prompt_tokens` says the same in Python."""


def keyword_tokens(scripts: Sequence[Script]) -> dict[str, int]:
    """Number the keywords, and refuse a set in which one hides another."""
    keywords = [script.keyword for script in scripts]
    for keyword in keywords:
        if sum(keyword in other for other in keywords) > 1:
            raise ValueError(f"the keyword {keyword!r} is given twice, or is part of another")
    if len({keyword.encode()[:SPELT] for keyword in keywords}) < len(keywords):
        raise ValueError(f"two keywords begin with the same {SPELT} bytes")
    return dict(zip(keywords, count(FIRST_KEYWORD)))


def vocabulary_size(scripts: Sequence[Script]) -> int:
    """Count the bytes, the markers and the keywords."""
    return FIRST_KEYWORD + len(scripts)


def tokens_of(script: Script) -> list[int]:
    """Spell a script: in bytes, with the markers as tokens of their own where it is marked."""
    if not script.marked:
        return [*script.text.encode()]
    pieces = re.split(f"({'|'.join(SPEECH_MARKERS)})", script.text)
    return [
        token
        for piece in pieces
        for token in ([SPEECH_MARKERS[piece]] if piece in SPEECH_MARKERS else piece.encode())
    ]


def completion_tokens(text: str) -> int:
    """Return the completion tokens that the engine counts for `text`: one a byte."""
    return len(text.encode())


def prompt_tokens(
    messages: Iterable[Mapping[str, Any]], scripts: Sequence[Script] = ALL_SCRIPTS
) -> int:
    """Return the prompt tokens that the engine counts for `messages` under the chat template."""
    prompt = "".join(chain(map(_turn, messages), [f"{MESSAGE_START}assistant\n"]))
    whole = [*MARKERS, *SPEECH_MARKERS, *keyword_tokens(scripts)]
    remainder, tokens = re.subn("|".join(map(re.escape, whole)), "", prompt)
    return tokens + len(remainder.encode())


def _turn(message: Mapping[str, Any]) -> str:
    response = "<tool_response>" if message["role"] == "tool" else ""
    calls = "".join(
        f"<tool_call>{call['function']['name']}</tool_call>"
        for call in message.get("tool_calls", ())
    )
    said = f"{response}{message['content']}{calls}"
    return f"{MESSAGE_START}{message['role']}\n{said}{MESSAGE_END}\n"


def tokenizer_json(scripts: Sequence[Script]) -> dict[str, Any]:
    """Describe the tokenizer in the format of the `tokenizers` library."""
    markers = {**MARKERS, **SPEECH_MARKERS}
    added = [_added_token(token, text, special=True) for text, token in markers.items()]
    added += [
        _added_token(token, text, special=False) for text, token in keyword_tokens(scripts).items()
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
            "vocab": {_printable(byte): byte for byte in BYTE_VALUES},
            "merges": [],
        },
    }


def tokenizer_config_json() -> dict[str, Any]:
    """Describe what surrounds the tokenizer: its class, its markers and the chat template."""
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


def without_template() -> dict[str, Any]:
    """The same for a model that nobody chats with."""
    return {key: value for key, value in tokenizer_config_json().items() if key != "chat_template"}


def _added_token(token: int, text: str, *, special: bool) -> dict[str, Any]:
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


def _printable(byte: int) -> str:
    """Return the character that stands for a byte in a byte-level vocabulary.

    Bytes that print in Latin-1 stand for themselves; the others are numbered from U+0100, in order.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printing:
        return chr(byte)
    return chr(0x100 + byte - sum(other < byte for other in printing))
