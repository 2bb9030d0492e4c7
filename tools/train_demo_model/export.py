"""Convert the trained model with the ONNX Runtime GenAI builder into the shipped model folder."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import hidden_states
from protocol import CALL_END, CALL_START
from tokenizers import Tokenizer
from vocabulary import CHAT_TEMPLATE, END, MAX_CONTEXT, PAD

SHIPPED = ("model.onnx", "model.onnx.data", "tokenizer.json")
BUILDER_TIME_LIMIT_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path, help="folder written by train.py")
    parser.add_argument("output", type=Path, help="folder of the model that ships")
    parser.add_argument("--precision", choices=("int4", "int8", "fp32"), default="int4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "built"
        build(arguments.trained, built, Path(scratch) / "cache", arguments.precision)
        ship(built, arguments.output)
    print_sizes(arguments.output)


def build(trained: Path, built: Path, cache: Path, precision: str) -> None:
    """Run the builder; print its output only if it fails."""
    options = {"-i": trained, "-o": built, "-p": precision, "-e": "cpu", "-c": cache}
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=BUILDER_TIME_LIMIT_S
    )
    if done.returncode:
        raise SystemExit(f"the builder failed:\n{done.stdout}\n{done.stderr}")


def ship(built: Path, output: Path) -> None:
    """Copy only the files that the engine reads, next to the model card."""
    output.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copyfile(built / name, output / name)
    config = json.loads((built / "genai_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(built / "tokenizer.json"))
    write_json(output / "genai_config.json", tune_config(config, tokenizer))
    write_json(output / "tokenizer_config.json", make_tokenizer_config())
    hidden_states.add_output(output)


def tune_config(config: dict, tokenizer: Tokenizer) -> dict:
    """Set the context length, the markers of tool calls, and the default temperature."""
    config["model"]["context_length"] = MAX_CONTEXT
    config["model"]["bot_token_id"] = tokenizer.token_to_id(CALL_START)
    config["model"]["eot_token_id"] = tokenizer.token_to_id(CALL_END)
    # The service always samples, whatever do_sample says, and uses this temperature when a request
    # has none: at 1.0 three answers in thirty went wrong, at 0.3 none in sixty.
    config["search"].update(max_length=MAX_CONTEXT, do_sample=True, temperature=0.3)
    return config


def make_tokenizer_config() -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": MAX_CONTEXT,
        "chat_template": CHAT_TEMPLATE.read_text(encoding="utf-8").strip(),
    }


def write_json(path: Path, value: dict) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def print_sizes(output: Path) -> None:
    for path in sorted(output.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.name}")


if __name__ == "__main__":
    main()
