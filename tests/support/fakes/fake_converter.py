"""Takes the place of model_import/program/convert.py: a fake that converts nothing.

The graph that it makes is the demo model. The file given by FAKE_CONVERTER is a JSON object with
what each step does: `fail`, `die` (killed), `hang` until standard input ends, or a list of lines.
Every run is noted in the file with the suffix `.log`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from foundry_api.engine.process import get_demo_models

CONTROL = Path(os.environ["FAKE_CONVERTER"])


def report(**members: Any) -> None:
    print(json.dumps(members), flush=True)


def make(step: str, job: dict[str, Any], *, is_complete: bool) -> None:
    if step == "weights":
        Path(job["directory"]).mkdir()
        Path(job["directory"], "config.json").write_text("{}", encoding="utf-8")
    elif step == "graph":
        (demo,) = get_demo_models()
        shutil.copytree(demo.path, job["model"])
        if not is_complete:
            Path(job["model"], "model.onnx.data").write_bytes(b"half")
    else:
        text = json.loads(CONTROL.read_text(encoding="utf-8")).get("text", "")
        answers = [{"prompt": prompt, "texts": [text]} for prompt in job["prompts"]]
        Path(job["reference"]).write_text(json.dumps(answers), encoding="utf-8")


def main() -> int:
    step, *arguments = sys.argv[1:]
    with CONTROL.with_suffix(".log").open("a", encoding="utf-8") as log:
        log.write(f"{step} {os.getpid()}\n")
    behaviour = json.loads(CONTROL.read_text(encoding="utf-8")).get(step, "")
    if step in {"pip", "modules"}:
        for line in behaviour if isinstance(behaviour, list) else ():
            is_error = line.startswith("ERROR")
            print(line, file=sys.stderr if is_error else sys.stdout, flush=True)
            if is_error:
                return 1
        return 0
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    make(step, job, is_complete=not behaviour)
    report(percent=50, detail="half of it")
    if behaviour == "fail":
        report(error="ValueError: the weights are strange.")
        return 1
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang":
        sys.stdin.read()
        return 1
    report(percent=100)
    report(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
