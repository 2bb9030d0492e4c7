"""A language model with known answers, for tests with the real engine.

`build` writes a model directory (ONNX graph, tokenizer, configuration) that Foundry Local loads
like any other model. A keyword in the prompt selects the `Script` that the model recites byte for
byte, independent of the sampling parameters, so tests can assert exact texts, token counts and
finish reasons. Some scripts are endless and some are slow, for tests of timeouts and cancellation.
Some call tools or reason, with markers that an engine detects or as text that it does not.

Of several keywords the last one counts, so a tool result can select the next script.

    build(tmp_path / "scripted")
    messages = [{"role": "user", "content": "Please say-hello."}]
    ...                                                     # run the engine
    assert content == script("say-hello").text
    assert usage["prompt_tokens"] == prompt_tokens(messages)
"""

from .directory import build
from .scripts import ALL_SCRIPTS, MARKED_SCRIPTS, SCRIPTS, TEXT_CALLS, Script, script
from .tokenizer import completion_tokens, prompt_tokens

__all__ = [
    "ALL_SCRIPTS",
    "MARKED_SCRIPTS",
    "SCRIPTS",
    "TEXT_CALLS",
    "Script",
    "build",
    "completion_tokens",
    "prompt_tokens",
    "script",
]
