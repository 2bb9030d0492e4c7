"""A language model whose every answer is known, for tests against the real engine.

`build` writes a model directory (ONNX graph, tokenizer, configuration) that Foundry Local loads
like any other model. A keyword in the prompt picks the `Script` it recites, byte for byte, whatever
the sampling parameters say, so a test can assert exact text, exact token counts and exact finish
reasons. Some scripts never end and some are slow, for tests of timeouts and of cancellation; some
call tools or reason, with markers that an engine knows or as text that it does not.

Of several keywords the last one counts, so that what a tool answers may hold the next.

    build(tmp_path / "scripted")
    messages = [{"role": "user", "content": "Please say-hello."}]
    ...                                                     # run_command the engine
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
