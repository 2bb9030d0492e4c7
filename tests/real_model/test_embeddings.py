"""Embeddings of the real model, beside those of ONNX Runtime."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from foundry_api import ModelTaskMismatch
from real_model.models import CHAT, CHAT_MODEL, SPEECH_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api import FoundryAPIClient

# Texts and their tokens, as Hugging Face's `tokenizers` makes them.
TOKENS = {
    "Paris is the capital of France.": [38634, 314, 260, 3575, 282, 4649, 30],
    "Bread": [50, 1040],
    "日本語 naïve": [23274, 115, 40993, 179, 120, 248, 15486, 46494],
    " the cat sat on the mat" * 10: [260, 2644, 2643, 335, 260, 1171] * 10,
}
END = 2


def compute_reference(tokens: Sequence[int]) -> np.ndarray:
    """Return the hidden state of the end token after a text, with length 1."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        str(CHAT_MODEL / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    ids = np.array([[*tokens, END]], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for each in session.get_inputs():
        if each.name.startswith("past_key_values"):
            inputs[each.name] = np.zeros((1, each.shape[1], 0, 64), np.float32)
    [states] = session.run(["hidden_states"], inputs)
    vector = states[0, -1]
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("text", TOKENS)
async def test_a_vector_is_that_of_onnx_runtime(client: FoundryAPIClient, text: str) -> None:
    embeddings = await client.embed(text, model=CHAT)
    expected = compute_reference(TOKENS[text])
    assert embeddings.dimensions == len(expected) == 576
    # Seen: 2e-4. ONNX Runtime computes four-bit products with other roundings on other processors.
    assert np.abs(np.array(embeddings.vectors[0]) - expected).max() < 1e-3
    assert float(np.dot(embeddings.vectors[0], expected)) > 0.999


async def test_vectors_repeat_in_any_order_and_batch(client: FoundryAPIClient) -> None:
    texts = list(TOKENS)
    together = await client.embed(texts, model=CHAT)
    backward = await client.embed(texts[::-1], model=CHAT, batch_size=1)
    assert together.vectors == backward.vectors[::-1]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in together.vectors)
    assert len({tuple(vector) for vector in together.vectors}) == len(texts)


@pytest.mark.skipif(not SPEECH_MODEL.is_dir(), reason="run: python3 dev.py real-model whisper-base")
async def test_a_speech_model_cannot_embed(own_client: FoundryAPIClient) -> None:
    await own_client.models.register(SPEECH_MODEL, "whisper")
    with pytest.raises(ModelTaskMismatch):
        await own_client.embed("text", model="whisper")
