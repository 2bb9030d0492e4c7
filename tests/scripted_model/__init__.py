"""A language model whose every answer is known, for tests against the real engine.

`build` writes a model directory (ONNX graph, tokenizer, configuration) that Foundry Local loads
like any other model. A keyword in the prompt picks the `Script` it recites, byte for byte, whatever
the sampling parameters say, so a test can assert exact text, exact token counts and exact finish
reasons. Some scripts never end and some are slow, for tests of timeouts and of cancellation.

    build(tmp_path / "scripted")
    messages = [{"role": "user", "content": "Please say-hello."}]
    ...                                                     # ask the engine
    assert content == script("say-hello").text
    assert usage["prompt_tokens"] == prompt_tokens(messages)
"""

from .directory import build
from .scripts import SCRIPTS, Script, script
from .tokenizer import completion_tokens, prompt_tokens

__all__ = ["SCRIPTS", "Script", "build", "completion_tokens", "prompt_tokens", "script"]
