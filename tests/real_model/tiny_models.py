"""Make and compare tiny models, in the builder's environment: `python tiny_models.py VERB …`.

    make KIND DIRECTORY        write a Hugging Face directory with random weights
    make-gguf KIND FILE        write the same as a GGUF file, as llama.cpp names its parts
    compare DIRECTORY MODEL    print how many tokens of each answer agree, and of how many, as JSON

The weights are 16-bit numbers, which fp16 stores exactly.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

VOCABULARY = 512
LAYERS, HEADS, KEY_HEADS = 2, 2, 1
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ernie": ("ernie4_5", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"sliding_window": 32, "query_pre_attn_scalar": 64}),
    "granite": ("granite", {"embedding_multiplier": 2.0, "logits_scaling": 2.0}),
    "hunyuan": ("hunyuan_v1_dense", {}),
    "lfm2": (
        "lfm2",
        {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama3": ("llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}}),
    "llama3.1": ("llama", {"rope_parameters": LLAMA3, "max_position_embeddings": 16384}),
    "mistral": ("mistral", {"sliding_window": None}),
    "nemotron": ("nemotron", {}),
    "phi": ("phi", {"num_key_value_heads": HEADS}),
    "phi3": ("phi3", {"original_max_position_embeddings": 512, "sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "qwen3-linear": ("qwen3", {"rope_parameters": LINEAR}),
}
TEXTS = ["Hello, how are you today?", "It was the year 1234. " * 20]
TOKENS = 12


def make_model(kind: str) -> Any:
    torch.manual_seed(0)
    model_type, changes = KINDS[kind]
    config = AutoConfig.for_model(model_type, **{**BASE, **changes})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).half().float()


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return fast


def make(kind: str, directory: str) -> None:
    make_model(kind).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)


def make_gguf(kind: str, file: str) -> None:
    import gguf
    import numpy as np

    architecture = KINDS[kind][0]
    model, tokenizer = make_model(kind), make_tokenizer()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(BASE["intermediate_size"])
    writer.add_embedding_length(BASE["hidden_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(BASE["head_dim"])
    writer.add_rope_dimension_count(BASE["head_dim"])
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in {"<s>", "</s>"} else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in content["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], LAYERS)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleave(values, HEADS if "q_proj" in name else KEY_HEADS)
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(values)
        )
    if kind == "llama3.1":
        writer.add_tensor("rope_freqs.weight", compute_llama3_factors())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compute_llama3_factors() -> Any:
    """As convert_hf_to_gguf.py of llama.cpp computes them."""
    import numpy as np

    factors = []
    for index in range(0, BASE["head_dim"], 2):
        wave = 2 * math.pi * LLAMA3["rope_theta"] ** (index / BASE["head_dim"])
        length = LLAMA3["original_max_position_embeddings"]
        if wave < length / LLAMA3["high_freq_factor"]:
            factors.append(1.0)
        elif wave > length / LLAMA3["low_freq_factor"]:
            factors.append(LLAMA3["factor"])
        else:
            span = LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"]
            smooth = (length / wave - LLAMA3["low_freq_factor"]) / span
            factors.append(1 / ((1 - smooth) / LLAMA3["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def interleave(values: Any, heads: int) -> Any:
    """Order the rows as llama.cpp does for this architecture."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def compare(directory: str, converted: str) -> None:
    import onnxruntime_genai

    tokenizer = AutoTokenizer.from_pretrained(directory)
    source = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    model = onnxruntime_genai.Model(converted)
    agreement = []
    for text in TEXTS:
        prompt = tokenizer(text)["input_ids"]
        with torch.inference_mode():
            output = source.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=TOKENS,
                do_sample=False,
            )
        parameters = onnxruntime_genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(prompt) + TOKENS, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(prompt)
        answer: list[int] = []
        while not generator.is_done() and len(answer) < TOKENS:
            generator.generate_next_token()
            answer.append(int(generator.get_next_tokens()[0]))
        expected = output[0, len(prompt) :].tolist()
        # Both may end early, with the token that ends an answer.
        same = [a == b for a, b in zip(expected, answer, strict=False)]
        agreement.append([(*same, False).index(False), len(expected)])
    print(json.dumps(agreement))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    {"make": make, "make-gguf": make_gguf, "compare": compare}[verb](*arguments)
