"""Train the tokenizer: a byte-level BPE small enough for a model of two million parameters."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from conversations import Conversations
from corpus import HONEST, Corpus
from protocol import CALL_END, CALL_START, FRAME, PASSAGES, to_call_list, to_compact_json
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1280
TOOL_MERGES = 108
END = "<|end|>"
PAD = "<|pad|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}
MARKERS = (ROLE_TOKENS["tool"], CALL_START, CALL_END)
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SAMPLE_CONVERSATIONS = 6000
MAX_CONTEXT = 4096


def train_tokenizer(corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """Train the vocabulary on sampled conversations, and add the tokens for tools."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = [token for role, token in ROLE_TOKENS.items() if role != "tool"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, END, *roles],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_texts(corpus, seed), trainer)
    return add_tools(tokenizer, corpus, seed)


def add_tools(tokenizer: Tokenizer, corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """Add the markers, the engine's passages and merges for the JSON of tools."""
    # The engine tokenizes declarations, calls and contents without added tokens, so only merges can
    # shorten them. They come last, so that other conversations are tokenized as before.
    if tokenizer.token_to_id(CALL_START) is None:
        counts = _tool_words(corpus, seed)
        tokenizer = _add_merges(tokenizer, counts, TOOL_MERGES)
        tokenizer.add_special_tokens([_make_token(marker, special=True) for marker in MARKERS])
        tokenizer.add_tokens([_make_token(passage, special=False) for passage in PASSAGES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8").strip()
    return fast


def _make_token(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, normalized=False, special=special)


def _sample_texts(corpus: Corpus, seed: int) -> list[str]:
    """Sample the texts that the vocabulary is trained on."""
    conversations = Conversations(corpus, random.Random(seed))
    texts = [f"{topic.answer} {topic.more}" for topic in corpus.topics]
    for _ in range(SAMPLE_CONVERSATIONS):
        contents = [message["content"] for message in conversations.draw()]
        # Questions outside the corpus are left out, so that no token is wasted on gibberish.
        texts += contents if HONEST not in contents else []
    # Without digits in the sample, each digit stays its own token.
    return [re.sub(r" ?\d+", "", text) for text in texts]


def _tool_words(corpus: Corpus, seed: int) -> Counter[str]:
    """Count the words of declarations and calls, in byte-level characters."""
    tools = Conversations(corpus, random.Random(seed)).tool_exchanges
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    counts: Counter[str] = Counter()
    for _ in range(SAMPLE_CONVERSATIONS):
        tool_set = tools.tool_sets.draw()
        texts = [
            FRAME,
            to_compact_json([{"type": "function", "function": d} for d in tool_set.definitions]),
        ]
        if used := tools.draw(tool_set):
            texts += [to_compact_json(to_call_list(list(used.calls))), *used.results, used.answer]
        for text in texts:
            plain = re.sub(r" ?\d+", "", text)
            counts.update(word for word, _ in splitter.pre_tokenize_str(plain))
    return counts


def _add_merges(tokenizer: Tokenizer, counts: Counter[str], merges: int) -> Tokenizer:
    """Continue byte-pair encoding after the trained merges."""
    description = json.loads(tokenizer.to_str())
    model = description["model"]
    words = {word: tokenizer.model.tokenize(word) for word in counts}
    pieces = {word: [token.value for token in tokens] for word, tokens in words.items()}
    for _ in range(merges):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        model["merges"].append([first, second])
        model["vocab"][first + second] = len(model["vocab"])
        pieces = {word: _merge(parts, first, second) for word, parts in pieces.items()}
    return Tokenizer.from_str(json.dumps(description))


def _merge(parts: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and merged[-1] == first and part == second:
            merged[-1] = first + second
        else:
            merged.append(part)
    return merged
