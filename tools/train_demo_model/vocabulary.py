"""The tokenizer: byte-level BPE of our own, small enough for a model of two million parameters."""

from __future__ import annotations

import random
import re
from pathlib import Path

from conversations import Conversations
from corpus import HONEST, Corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 1280
END = "<|end|>"
PAD = "<|pad|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
SAMPLE_CONVERSATIONS = 6000
LONGEST_CONTEXT = 4096


def train_tokenizer(corpus: Corpus, seed: int) -> PreTrainedTokenizerFast:
    """Learn the vocabulary from sampled conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, END, *ROLE_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_texts(corpus, seed), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=LONGEST_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8").strip()
    return fast


def _sample_texts(corpus: Corpus, seed: int) -> list[str]:
    """What the vocabulary is counted on.

    Digits are left out, so that each digit stays its own token. Of the questions only taught ones
    count, so that no room is wasted on gibberish.
    """
    conversations = Conversations(corpus, random.Random(seed))
    texts = [f"{topic.answer} {topic.more}" for topic in corpus.topics]
    for _ in range(SAMPLE_CONVERSATIONS):
        contents = [message["content"] for message in conversations.draw()]
        texts += contents if HONEST not in contents else []
    return [re.sub(r" ?\d+", "", text) for text in texts]
