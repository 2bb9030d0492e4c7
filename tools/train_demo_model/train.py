"""Train the demo model and save it in the Hugging Face layout, which export.py converts."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from batches import IGNORED, Batches
from conversations import Conversations
from corpus import Corpus, load_corpus
from torch.nn import functional
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import repeat_kv
from vocabulary import END, MAX_CONTEXT, PAD, train_tokenizer

SEED = 20261122
SAVE_EVERY = 25
ATTENTION = "sdpa_in_float32"
WARM_UP_STEPS = 20
VECTOR_SHARE = 0.83
WEIGHT_DECAY = 0.1
REPORT_EVERY = 25


@dataclass(frozen=True)
class Round:
    """A round of training with its own warm-up and decay.

    Attributes:
        rate: The highest learning rate of the layers' matrices.
        simple_steps: The number of first steps with only single, cleanly worded questions.
        cut_share: The share of answers that are cut: high while the model learns which answer fits
            a question, low while it learns to complete the answers.
        dialogue_share: The share of conversations with more than one exchange.
        percent: The frequency of each of KINDS.
        tool_share: The share of conversations that offer tools.
        drill_share: The share of conversations of sums only.
        json_share: The share of conversations that end with JSON.
    """

    steps: int
    rate: float
    simple_steps: int
    cut_share: float
    dialogue_share: float
    percent: tuple[int, ...]
    tool_share: float = 0.0
    drill_share: float = 0.0
    json_share: float = 0.0


KINDS = ("concept", "plain", "creative", "capital", "sum", "untaught")
ROUNDS = (
    Round(2400, 6e-3, 500, cut_share=0.8, dialogue_share=0.28, percent=(30, 8, 7, 9, 14, 32)),
    Round(2400, 4.5e-3, 0, cut_share=0.3, dialogue_share=0.28, percent=(32, 10, 5, 8, 17, 28)),
    Round(2200, 4e-3, 0, cut_share=0.5, dialogue_share=0.45, percent=(34, 14, 5, 6, 15, 26)),
    Round(1800, 3e-3, 0, cut_share=0.5, dialogue_share=0.45, percent=(36, 13, 5, 7, 15, 24)),
    Round(700, 2e-3, 0, cut_share=0.4, dialogue_share=0.45, percent=(36, 13, 5, 7, 15, 24)),
    Round(1000, 4e-3, 0, 0.5, 0.4, (36, 13, 5, 8, 13, 25), tool_share=0.6),
    Round(2400, 4e-3, 0, 0.5, 0.4, (38, 13, 5, 8, 12, 24), tool_share=0.3),
    Round(600, 2e-3, 0, 0.4, 0.4, (36, 13, 5, 6, 16, 24), tool_share=0.25),
    Round(125, 1e-3, 0, 0.5, 0.4, (36, 11, 3, 4, 24, 22), tool_share=0.15),
    Round(240, 9e-4, 0, 0.5, 0.4, (36, 11, 3, 4, 24, 22), tool_share=0.18),
    Round(400, 1.2e-3, 0, 0.5, 0.4, (38, 12, 4, 4, 20, 22), tool_share=0.22),
    Round(200, 1e-3, 0, 0.5, 0.4, (38, 12, 4, 4, 20, 22), tool_share=0.25),
    Round(800, 1.6e-3, 0, 0.5, 0.4, (42, 12, 3, 3, 20, 20), tool_share=0.2),
    Round(1000, 2.5e-3, 0, 0.5, 0.4, (40, 12, 4, 4, 18, 22), tool_share=0.16, drill_share=0.25),
    Round(900, 1.8e-3, 0, 0.5, 0.4, (44, 13, 4, 4, 10, 25), tool_share=0.18, drill_share=0.05),
    Round(500, 1.2e-3, 0, 0.5, 0.4, (40, 12, 4, 9, 12, 23), tool_share=0.3, drill_share=0.08),
    Round(600, 1.8e-3, 0, 0.5, 0.35, (38, 12, 4, 7, 14, 25), 0.2, 0.08, json_share=0.36),
    Round(900, 1.6e-3, 0, 0.5, 0.35, (38, 12, 4, 7, 14, 25), 0.18, 0.06, json_share=0.42),
    Round(650, 1.8e-3, 0, 0.5, 0.35, (38, 12, 4, 7, 14, 25), 0.14, 0.05, json_share=0.5),
    Round(350, 1.4e-3, 0, 0.5, 0.35, (38, 12, 4, 7, 14, 25), 0.16, 0.06, json_share=0.45),
    Round(420, 1.4e-3, 0, 0.55, 0.35, (40, 12, 4, 11, 10, 23), 0.17, 0.05, json_share=0.33),
    Round(260, 1e-3, 0, 0.55, 0.35, (40, 12, 4, 11, 10, 23), 0.15, 0.1, json_share=0.3),
    Round(240, 9e-4, 0, 0.55, 0.35, (44, 12, 4, 10, 9, 21), 0.16, 0.1, json_share=0.25),
)
AVERAGED_ROUNDS = (3, 4, 5)


def attention_in_float32(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: object,
    **__: object,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention in float32: on a CPU its backward pass is slow in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        output = functional.scaled_dot_product_attention(
            query.float(),
            repeat_kv(key, module.num_key_value_groups).float(),
            repeat_kv(value, module.num_key_value_groups).float(),
            is_causal=True,
        )
    return output.transpose(1, 2), None


AttentionInterface.register(ATTENTION, attention_in_float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the trained model")
    parser.add_argument("--threads", type=int, default=0, help="0: torch chooses")
    parser.add_argument(
        "--round", type=int, default=1, help="continue from the model in output with this round"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    corpus = load_corpus()
    for number in range(arguments.round, len(ROUNDS) + 1):
        run_round(corpus, number, arguments.output)


def run_round(corpus: Corpus, number: int, output: Path) -> None:
    """Train one round; the first starts with a new model, the others with the previous round."""
    seed = SEED + number - 1
    torch.manual_seed(seed)
    if number == 1:
        tokenizer = train_tokenizer(corpus, seed)
        tokenizer.save_pretrained(output)
        model = make_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(output)
        model = LlamaForCausalLM.from_pretrained(output, attn_implementation=ATTENTION)
    print(f"round {number}: {model.num_parameters():,} parameters", flush=True)
    rng = random.Random(seed)
    conversations = Conversations(corpus, rng)
    batches = Batches(conversations, tokenizer, rng)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train(model, conversations, batches, ROUNDS[number - 1], output)
    if number in AVERAGED_ROUNDS:
        average_weights(model, before)
        model.save_pretrained(output)


def average_weights(model: LlamaForCausalLM, before: dict[str, torch.Tensor]) -> None:
    """Average the weights before and after a round, which is better than either."""
    after = model.state_dict()
    model.load_state_dict({name: (before[name] + after[name]) / 2 for name in after})


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make an untrained Llama of about two million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=MAX_CONTEXT,
        tie_word_embeddings=False,
        attn_implementation=ATTENTION,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    conversations: Conversations,
    batches: Batches,
    plan: Round,
    output: Path,
) -> None:
    """Minimize the loss of the answers' tokens, and save the model regularly."""
    optimizers = make_optimizers(model, plan.rate)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: get_rate_factor(step, plan.steps))
        for optimizer in optimizers
    ]
    started, losses = time.monotonic(), []
    model.train()
    batches.cut_share = plan.cut_share
    conversations.dialogue_share = plan.dialogue_share
    conversations.tool_share = plan.tool_share
    conversations.drill_share = plan.drill_share
    conversations.json_share = plan.json_share
    conversations.exchanges.shares = dict(zip(KINDS, plan.percent, strict=True))
    conversations.simple = plan.simple_steps > 0
    for step, (ids, labels) in zip(range(1, plan.steps + 1), batches, strict=False):
        conversations.simple = step < plan.simple_steps
        loss = compute_loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in (*optimizers, *schedulers):
            stepper.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % REPORT_EVERY == 0:
            mean = sum(losses[-REPORT_EVERY:]) / REPORT_EVERY
            print(f"step {step}  loss {mean:.4f}  {time.monotonic() - started:.0f} s", flush=True)
        if step % SAVE_EVERY == 0 or step == plan.steps:
            model.save_pretrained(output)


def compute_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy of the answers' tokens, with logits only for their positions."""
    # No attention mask is needed: causal attention ignores the padding on the right.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        learned = targets != IGNORED
        logits = model.lm_head(hidden[learned])
    return functional.cross_entropy(logits.float(), targets[learned])


def make_optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Make Muon for the layers' matrices, which it trains faster, and AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    matrix_ids = {id(p) for p in matrices}
    other_parameters = [p for p in model.parameters() if id(p) not in matrix_ids]
    muon = torch.optim.Muon(
        matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
    )
    return [
        muon,
        torch.optim.AdamW(
            other_parameters, lr=rate * VECTOR_SHARE, betas=(0.9, 0.98), weight_decay=0.01
        ),
    ]


def get_rate_factor(step: int, steps: int) -> float:
    """Warm up, stay constant, and decay to almost 0 over the last two thirds."""
    return min(1.0, (step + 1) / WARM_UP_STEPS, 1.5 * (1 - step / steps) + 0.002)


if __name__ == "__main__":
    main()
