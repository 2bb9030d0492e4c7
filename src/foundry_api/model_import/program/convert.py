"""Converts a model: `python convert.py STEP JOB`, in the environment of the builder.

STEP is `weights` (a GGUF file becomes a Hugging Face directory), `graph` (that directory becomes a
directory for the engine) or `reference` (the source's own answers, to compare with). JOB is a JSON
file. Two further steps install the environment: `pip ARGUMENTS`, and `modules`, which imports what
the others need.

Progress and the result are JSON lines on standard output; everything that the libraries print goes
to standard error. The program ends when its standard input ends, so it does not outlive the program
that started it.

It imports nothing of foundry_api, which is not installed there.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import runpy
import sys
import threading
from pathlib import Path
from typing import Any, Self

# Nothing is fetched: a source that names another file or model must fail, not wait for a network.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

MODULES = (
    "accelerate",
    "gguf",
    "onnx",
    "onnxruntime_genai",
    "safetensors",
    "torch",
    "transformers",
)

SMOLLM_SPLITTING = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LAYER = re.compile(r"Reading layer (\d+)")
# Of the time for the graph, the reading of the layers takes about this share.
READING = 0.4
# Smaller constants, such as the epsilon of a norm, stay as they are. So do the cosines and sines of
# the positions: with 16 bits, tokens of the answers of small models changed.
MIN_HALVED_ELEMENTS = 1024
POSITIONS = ("cos_cache", "sin_cache")


def report(**members: Any) -> None:
    EVENTS.write(json.dumps(members) + "\n")


class Meter:
    """Reports progress in place of a tqdm bar."""

    def __init__(self, iterable: Any = (), total: int | None = None, **_: Any) -> None:
        self.iterable = iterable
        self.total = total if total is not None else len(iterable)
        self.count = 0
        self.reported = 0
        self.start = 0.0

    def __iter__(self) -> Any:
        for item in self.iterable:
            yield item
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        self.count += count
        percent = int(100 * (self.start + (1 - self.start) * self.count / max(1, self.total)))
        if percent > self.reported:
            self.reported = min(percent, 100)
            report(percent=self.reported)

    def set_description(self, *_: object) -> None:
        pass


class SavingMeter(Meter):
    """The bar of the builder's last phase."""

    def __init__(self) -> None:
        super().__init__(total=1)
        self.start = READING


def make_weights(job: dict[str, Any]) -> None:
    """Turn a GGUF file into a Hugging Face directory with the weights as 32-bit floats."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers import modeling_gguf_pytorch_utils as reader

    reader.tqdm = Meter
    source, target = Path(job["source"]), job["directory"]
    place = {
        "pretrained_model_name_or_path": str(source.parent),
        "gguf_file": source.name,
        "trust_remote_code": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(**place)
    config = AutoConfig.from_pretrained(**place)
    if job["head_size"] is not None:
        config.head_dim = job["head_size"]  # transformers does not read it for every architecture
    if job["has_rope_factors"]:
        config.rope_parameters = find_llama3_scaling(source, config)
    config.architectures = [job["architecture"]]
    model = AutoModelForCausalLM.from_pretrained(**place, config=config, dtype=torch.float32)
    # The weights are no longer quantised; with these, they could not be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer.model_max_length = config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if job["splitting"] == "smollm":
        path = Path(target, "tokenizer.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        content["pre_tokenizer"] = SMOLLM_SPLITTING
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def find_llama3_scaling(source: Path, config: Any) -> dict[str, Any]:
    """Return the scaling of positions of Llama 3.1 and later, from the factors in a GGUF file."""
    # llama.cpp stores the factor of each frequency. transformers ignores them, and the builder
    # needs the numbers that they were computed from, which are the same for all such models.
    import numpy as np
    from gguf import GGUFReader

    (tensor,) = (part for part in GGUFReader(source).tensors if part.name == "rope_freqs.weight")
    factors = np.asarray(tensor.data, dtype=np.float64)
    scaling = {**LLAMA3_SCALING, "factor": float(factors.max())}
    theta, length = (
        config.rope_parameters["rope_theta"],
        scaling["original_max_position_embeddings"],
    )
    waves = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((length / waves - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    if not np.allclose(factors, expected, rtol=1e-3):
        raise ValueError(
            "rope_freqs.weight is not the scaling of Llama 3.1; take the model's Hugging Face "
            "directory instead"
        )
    return {**scaling, "rope_theta": theta}


def make_graph(job: dict[str, Any]) -> None:
    """Run the builder, then set what it leaves open."""
    # The first import puts the builder's own modules on the path, where the second finds them.
    from onnxruntime_genai.models.builder import create_model, parse_extra_options  # isort: skip
    from builders import base

    base.tqdm = SavingMeter
    source, target = job["directory"], job["model"]
    config = json.loads(Path(source, "config.json").read_text(encoding="utf-8"))
    sys.stdout = LayerCounter(config["num_hidden_layers"])
    precision = {"fp16": "fp32"}.get(job["precision"], job["precision"])
    options = [
        "include_hidden_states=true",  # with them, the engine can embed with the model too
        "windowed_kv_cache=false",  # else the library refuses prompts shorter than the window
    ]
    if precision == "int4":
        # The vocabulary with 8 bits: the choice among its tokens is the last of all roundings.
        options += [
            "is_symmetric=false",
            "algo_config=rtn",
            "matmul_mixed_precision=last_matmul:int8",
        ]
    cache = str(Path(target).with_name("cache"))
    place = (None, source, target, precision, "cpu", cache)
    create_model(*place, **parse_extra_options(*place, options))
    if job["precision"] == "fp16":
        halve_weights(Path(target, "model.onnx"))
    set_defaults(Path(source), Path(target), job["context_length"])


class LayerCounter:
    """Standard output for the builder: reports the layers that it reads, and logs the lines."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def write(self, text: str) -> int:
        if match := LAYER.search(text):
            layer = int(match[1]) + 1
            report(
                percent=int(100 * READING * layer / self.layers),
                detail=f"layer {layer} of {self.layers}",
            )
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def halve_weights(path: Path) -> None:
    """Store the weights of a graph as 16-bit floats, which it converts when it is loaded."""
    # The CPU has no kernels for a graph that computes with 16 bits: the builder's own fp16 graph
    # fails when it runs.
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        name, elements = tensor.name, math.prod(tensor.dims)
        if tensor.data_type != TensorProto.FLOAT or elements < MIN_HALVED_ELEMENTS:
            continue
        if name.startswith(POSITIONS):
            continue
        largest = np.finfo(np.float16).max
        values = np.clip(numpy_helper.to_array(tensor), -largest, largest).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path.with_name("model.onnx.data").unlink()
    onnx.save(
        model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024
    )


def set_defaults(source: Path, target: Path, context_length: int) -> None:
    path = target / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["context_length"] = config["search"]["max_length"] = context_length
    generation = source / "generation_config.json"
    chosen = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    # The builder reads this one from config.json only.
    penalty = chosen.get("repetition_penalty")
    if penalty is not None:
        config["search"]["repetition_penalty"] = penalty
    if not chosen.get("do_sample"):
        # The engine ignores `do_sample: false`: it would sample at temperature 1, at which small
        # models talk nonsense.
        config["search"].update(do_sample=True, temperature=0.2, top_p=0.9)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def make_reference(job: dict[str, Any]) -> None:
    """Write the first tokens of the source's own answers, as the texts after each token."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": job["directory"], "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32).eval()
    answers = []
    for number, prompt in enumerate(job["prompts"]):
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=job["tokens"], do_sample=False)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        texts = [
            tokenizer.decode(tokens[: count + 1], skip_special_tokens=True)
            for count in range(len(tokens))
        ]
        answers.append({"prompt": prompt, "texts": texts})
        report(percent=int(100 * (number + 1) / len(job["prompts"])), detail=prompt)
    Path(job["reference"]).write_text(json.dumps(answers), encoding="utf-8")


STEPS = {"weights": make_weights, "graph": make_graph, "reference": make_reference}


def import_modules() -> None:
    for module in MODULES:
        importlib.import_module(module)


def run_pip(arguments: list[str]) -> None:
    # pip looks at the name of the program, to protect its own files on Windows.
    sys.argv = [str(Path(sys.executable).with_name("__main__.py")), *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


def watch_parent() -> None:
    # Reads the descriptor itself: a thread that holds the lock of sys.stdin would stop the
    # interpreter from exiting.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch_parent, daemon=True).start()
    if sys.argv[1] == "pip":
        run_pip(sys.argv[2:])
        sys.exit()
    if sys.argv[1] == "modules":
        import_modules()
        sys.exit()
    # Libraries print to descriptor 1 too, so the events get a descriptor of their own.
    EVENTS = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    try:
        STEPS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    except Exception as failure:
        report(error=f"{type(failure).__name__}: {failure}")
        raise
    report(done=True)
