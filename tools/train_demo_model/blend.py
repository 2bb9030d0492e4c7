"""Averages trained models: the mean of two stages often does better than either.

python blend.py /tmp/blended /tmp/before=0.4 /tmp/after=0.6
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import LlamaForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Parse the command line and blend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder for the mean")
    parser.add_argument("parts", nargs="+", metavar="folder=share", help="the shares add up to 1")
    arguments = parser.parse_args()
    split = [part.rpartition("=") for part in arguments.parts]
    parts = [(Path(folder), float(share)) for folder, _, share in split]
    blend_models(parts).save_pretrained(arguments.output)
    for name in TOKENIZER_FILES:
        shutil.copyfile(parts[0][0] / name, arguments.output / name)


def blend_models(parts: list[tuple[Path, float]]) -> LlamaForCausalLM:
    """The model whose weights are the weighted mean of the parts'."""
    models = [(LlamaForCausalLM.from_pretrained(folder), share) for folder, share in parts]
    states = [(model.state_dict(), share) for model, share in models]
    mean = models[0][0]
    mean.load_state_dict(
        {name: sum(share * state[name] for state, share in states) for name in states[0][0]}
    )
    return mean


if __name__ == "__main__":
    main()
