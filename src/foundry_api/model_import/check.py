"""Compares the answers of an imported model with those of its source."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foundry_api.core.call import CallRequest
from foundry_api.core.chat import make_chat_call, make_chat_request
from foundry_api.core.runtime import ClientRuntime
from foundry_api.model_import.errors import ModelImportFailed
from foundry_api.resilience.deadline import NEVER
from foundry_api.types.checks import prompt_to_messages
from foundry_api.types.errors import FoundryError
from foundry_api.types.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from foundry_api.model_import.types import Precision

__all__ = ["PROMPTS", "TOKENS", "check_model", "count_agreeing"]

# Short questions with one likely answer: where the source itself hesitates between two words, the
# smallest rounding decides.
PROMPTS = (
    "What is the capital of France?",
    "Count from one to five.",
    "Say hello in Spanish.",
    "What colour is the sky on a clear day?",
    "Complete the sentence: The sun rises in the",
)
TOKENS = 8

# How many of the prompts must agree, and up to which token. Of 20 answers of SmolLM2-135M, which is
# small and so the most sensitive, the first token agreed in 12 with int4 and in 19 with int8, the
# first four in 7 and 17; with fp16 all eight did in all of these five. A model that was converted
# wrongly agrees in no answer, or in one by chance.
REQUIRED = {"int4": (3, 1), "int8": (3, 4), "fp16": (4, 8)}

ALIAS = "import-check"
# A large model that was just written is slow at its first token.
FIRST_TOKEN_TIMEOUT_S = 600.0


class Reference(msgspec.Struct, frozen=True):
    """An answer of the source, as the texts after each of its tokens."""

    prompt: str
    texts: list[str]


async def check_model(
    directory: Path, reference_path: Path, precision: Precision, report: Callable[[int], object]
) -> tuple[tuple[int, int], ...]:
    """Return for each prompt how many tokens agree, and how many were compared.

    The model runs in an engine of its own, so that the user's service is not disturbed.

    Raises:
        ModelImportFailed: The engine cannot serve the model, or the answers differ too much.
    """
    content = await asyncio.to_thread(reference_path.read_bytes)
    references = msgspec.json.decode(content, type=list[Reference])
    with tempfile.TemporaryDirectory(prefix=f"{ALIAS}-", ignore_cleanup_errors=True) as home:
        settings = Settings(
            service="embedded", home=Path(home), max_retries=0, timeout_s=FIRST_TOKEN_TIMEOUT_S
        )
        answers: list[str] = []
        try:
            async for answer in _ask(settings, directory, references):
                answers.append(answer)
                report(len(answers))
        except FoundryError as error:
            raise ModelImportFailed(
                f"the engine cannot serve the model: {error.message}", step="check", hint=error.hint
            ) from error
    agreement = tuple(
        (count_agreeing(reference.texts, answer), len(reference.texts))
        for reference, answer in zip(references, answers, strict=True)
    )
    _require_agreement(agreement, precision)
    return agreement


async def _ask(
    settings: Settings, directory: Path, references: Sequence[Reference]
) -> AsyncGenerator[str]:
    runtime = ClientRuntime(settings)
    try:
        connection = await runtime.connect()
        model = await connection.require_control("register models").register(directory, ALIAS)
        connection.forget(model)
        await connection.ensure_loaded(model)
        for reference in references:
            request = make_chat_request(
                prompt_to_messages(reference.prompt),
                max_tokens=len(reference.texts),
                temperature=0,
                is_validated=True,
            )
            call = make_chat_call(
                runtime.call_context,
                CallRequest((model.id,), request, FIRST_TOKEN_TIMEOUT_S, NEVER),
            )
            completion = await call.result()
            yield completion.reasoning + completion.content
    finally:
        await runtime.aclose()


def count_agreeing(texts: Sequence[str], answer: str) -> int:
    """Count the tokens of the source's answer with which the model's answer begins."""
    answer = _simplify(answer)
    count = 0
    for text in texts:
        if not answer.startswith(_simplify(text)):
            break
        count += 1
    return count


def _simplify(text: str) -> str:
    # The service strips the marks of reasoning, and some white space at the start. The last
    # character of a text may be incomplete.
    return text.replace("<think>", "").lstrip().rstrip("\N{REPLACEMENT CHARACTER}")


def _require_agreement(agreement: tuple[tuple[int, int], ...], precision: Precision) -> None:
    prompts, tokens = REQUIRED[precision]
    good = sum(same >= min(tokens, total) for same, total in agreement)
    if good >= prompts:
        return
    figures = ", ".join(f"{same} of {total}" for same, total in agreement)
    raise ModelImportFailed(
        f"the model answers differently from its source: of the first tokens of {len(agreement)} "
        f"answers, {figures} agree, and {precision} needs {tokens} in {prompts} answers",
        step="check",
        hint="Try a higher precision. To use the model as it is, import it with --no-check.",
    )
