"""Average the weights of trained models. The mean of two stages is often better than either.

python average_models.py /tmp/averaged /tmp/before=0.4 /tmp/after=0.6
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import LlamaForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the averaged model")
    parser.add_argument(
        "parts", nargs="+", metavar="folder=weight", help="the weights must add up to 1"
    )
    arguments = parser.parse_args()
    split = [part.rpartition("=") for part in arguments.parts]
    parts = [(Path(folder), float(weight)) for folder, _, weight in split]
    average_models(parts).save_pretrained(arguments.output)
    for name in TOKENIZER_FILES:
        shutil.copyfile(parts[0][0] / name, arguments.output / name)


def average_models(parts: list[tuple[Path, float]]) -> LlamaForCausalLM:
    """Return a model with the weighted mean of the parameters of all parts."""
    models = [(LlamaForCausalLM.from_pretrained(folder), weight) for folder, weight in parts]
    states = [(model.state_dict(), weight) for model, weight in models]
    mean = models[0][0]
    mean.load_state_dict(
        {name: sum(weight * state[name] for state, weight in states) for name in states[0][0]}
    )
    return mean


if __name__ == "__main__":
    main()
