"""The features of each service generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.types.errors import InvalidRequest, UnsupportedFeature
from foundry_api.types.messages import GrammarConstraint, ServiceGeneration
from foundry_api.types.serialization import Result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.types.messages import ChatRequest

__all__ = ["CAPABILITIES", "Capabilities", "Support"]

Support = Literal["native", "corrected", "unsupported"]
"""`native`: the service has the feature; `corrected`: the service lacks it or has a bug, and this
package makes up for it; `unsupported`: not available."""

INT32 = 2**31 - 1
INT64 = 2**63 - 1

# With these values a parameter has no effect, so that a service may ignore it.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "top_logprobs": (None, 0),
}


class Capabilities(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The features of one service generation.

    Attributes:
        service_generation: The generation.
        chat: Chat completions, complete and streamed.
        stop: Stop strings.
        finish_reason: Reports `length` for a truncated answer.
        usage: Token counts.
        stream_errors: Reports the error when a stream fails.
        cancellation: Stops the engine when the client disconnects, if it has read the prompt.
        prompt_cancellation: Stops the engine while it reads the prompt. No generation does: the
            client counts such a call as in flight until the engine has read its prompt.
        parallel_calls: Runs several calls of one model in parallel.
        keep_alive: Sends keep-alives while the engine reads the prompt.
        json_schema: The engine constrains answers to a JSON schema. Without it, the schema is put
            into the prompt. Every answer is validated.
        choice: The engine constrains answers to one of several texts. Without it, as above.
        grammar: The engine constrains answers to a Lark grammar.
        tools: Separates tool calls from the text.
        tool_choice: Can force the model to call a tool, or one certain tool.
        tool_history: Passes earlier tool calls and results to the model.
        names: Accepts an alias, an id, and an id without its version.
        load: Loads models.
        unload: Unloads models.
        unload_while_generating: Survives an unload request for a model that is generating. SDK 2.x
            refuses it; SDK 1.x crashes, so the client first waits for its known calls.
        parallel_loads: Can load several models at once.
        download: Downloads models.
        cached: Reports which models are downloaded.
        responses: The Responses API.
        chained_responses: Rejects a response chained to one that is not stored.
        embeddings: Embeddings.
        embed_with_chat_model: Survives an embeddings request for a model that cannot embed. SDK 2.1
            and later report an error; 1.2.4 and 2.0.1 crash, so the client sends them requests for
            known embedding models only.
        audio: Transcription.
        audio_upload: How to pass an audio file: as a `path` on the service's machine or as an
            `upload`; None if not supported.
        images: Images in chat completions.
        response_images: Images in responses, with a vision model.
        refuses_images: Rejects an image in a response if the model has no vision.
        max_seed: The largest seed.
        ignored_parameters: Parameters that the service silently ignores; calls with one fail with
            UnsupportedFeature.
    """

    service_generation: ServiceGeneration
    chat: Support = "native"
    stop: Support
    finish_reason: Support
    usage: Support = "native"
    stream_errors: Support
    cancellation: Support
    prompt_cancellation: Support = "unsupported"
    parallel_calls: Support
    keep_alive: Support
    json_schema: Support
    choice: Support
    grammar: Support
    tools: Support
    tool_choice: Support
    tool_history: Support
    names: Support = "corrected"
    load: Support
    unload: Support
    unload_while_generating: Support = "unsupported"
    parallel_loads: Support = "unsupported"
    download: Support
    cached: Support
    responses: Support
    chained_responses: Support
    embeddings: Support
    embed_with_chat_model: Support
    audio: Support
    audio_upload: Literal["path", "upload"] | None = None
    images: Support = "unsupported"
    response_images: Support
    refuses_images: Support
    max_seed: int = INT64
    ignored_parameters: frozenset[str] = frozenset({"logit_bias", "logprobs", "n", "top_logprobs"})

    def check(self, request: ChatRequest) -> None:
        """Check a request for features that this generation lacks, before it is sent.

        Args:
            request: The request.

        Raises:
            InvalidRequest: A value is out of range; `.field` names it.
            UnsupportedFeature: This generation lacks a feature.
        """
        seed = request.seed
        if seed is not None and not -self.max_seed - 1 <= seed <= self.max_seed:
            raise InvalidRequest(
                f"seed is {seed}, but {self.service_generation} accepts {self.max_seed} at most",
                field="seed",
            )
        forces_tool = request.tool_choice not in (None, "auto", "none")
        if forces_tool and self.tool_choice == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {self.service_generation} cannot make a model call "
                "a tool",
                field="tool_choice",
                hint="Leave tool_choice out, and request the call in the prompt.",
            )
        if self.grammar == "unsupported" and isinstance(request.constraint, GrammarConstraint):
            raise UnsupportedFeature(
                f"a service of generation {self.service_generation} does not support grammars",
                field="grammar",
                hint="Use response_model= or choice=, which are checked everywhere, "
                "or a service of SDK 2.1 or later.",
            )
        for name, value in request.extra.items():
            if name in self.ignored_parameters and value not in _NEUTRAL.get(name, (None,)):
                raise UnsupportedFeature(
                    f"a service of generation {self.service_generation} does not support {name}",
                    field=name,
                    hint=f"Leave {name} out, or use a service that supports it.",
                )


_SDK_2_1 = Capabilities(
    service_generation="sdk-2.1",
    stop="native",
    finish_reason="native",
    stream_errors="native",
    cancellation="native",
    parallel_calls="native",
    keep_alive="native",
    json_schema="native",
    choice="native",
    grammar="native",
    tools="native",
    tool_choice="native",
    tool_history="native",
    load="native",
    unload="native",
    unload_while_generating="native",
    parallel_loads="native",
    download="unsupported",
    cached="unsupported",
    responses="native",
    chained_responses="native",
    embeddings="native",
    embed_with_chat_model="native",
    audio="native",
    audio_upload="path",
    response_images="native",
    refuses_images="native",
    ignored_parameters=frozenset(
        {"frequency_penalty", "logit_bias", "logprobs", "n", "presence_penalty", "top_logprobs"}
    ),
)

_SDK_2_0 = msgspec.structs.replace(
    _SDK_2_1,
    service_generation="sdk-2.0",
    stop="corrected",
    finish_reason="corrected",
    cancellation="unsupported",
    keep_alive="unsupported",
    json_schema="corrected",
    choice="corrected",
    grammar="unsupported",
    tool_history="corrected",
    responses="corrected",
    chained_responses="corrected",
    embed_with_chat_model="unsupported",
    ignored_parameters=frozenset(
        {"logit_bias", "logprobs", "n", "response_format", "top_logprobs"}
    ),
)

_SDK_1 = msgspec.structs.replace(
    _SDK_2_0,
    service_generation="sdk-1",
    stream_errors="corrected",
    tools="corrected",
    cancellation="native",
    unload_while_generating="unsupported",
    tool_history="native",
    cached="native",
    audio="unsupported",
    audio_upload=None,
    refuses_images="corrected",
    max_seed=INT32,
)

# What a gateway offers in front of SDK 2.1 or later. It refuses images.
_GATEWAY = msgspec.structs.replace(
    _SDK_2_1,
    service_generation="gateway",
    names="native",
    download="native",
    cached="native",
    audio_upload="upload",
    response_images="unsupported",
)

# What other servers of OpenAI's API have in common: llama.cpp, vLLM, Ollama, LM Studio. None sends
# keep-alives, and which requests they refuse depends on their options and models.
_OPENAI = msgspec.structs.replace(
    _GATEWAY,
    service_generation="openai",
    keep_alive="unsupported",
    prompt_cancellation="native",
    json_schema="corrected",
    choice="corrected",
    grammar="unsupported",
    tools="corrected",
    names="corrected",
    load="unsupported",
    unload="unsupported",
    unload_while_generating="unsupported",
    parallel_loads="unsupported",
    download="unsupported",
    responses="unsupported",
    chained_responses="unsupported",
    refuses_images="unsupported",
)

_CLI_0_10 = msgspec.structs.replace(
    _SDK_1,
    service_generation="cli-0.10",
    cancellation="unsupported",  # not known, nor are parallel_calls, parallel_loads and audio
    parallel_calls="unsupported",
    parallel_loads="unsupported",
    tools="corrected",  # through the prompt; calls are parsed from the text
    tool_choice="unsupported",
    tool_history="corrected",
    load="corrected",  # through the `foundry` command, as are unload and download
    unload="corrected",
    download="corrected",
    responses="unsupported",
    chained_responses="unsupported",
    response_images="unsupported",
    refuses_images="unsupported",
)

_LEGACY = msgspec.structs.replace(
    _CLI_0_10,
    service_generation="legacy",
    usage="unsupported",
    load="native",
    unload="native",
    download="native",
    embeddings="unsupported",
    audio="native",  # documented, but 0.8.101 may lack it (docs/foundry-local-service.md, 1A)
    audio_upload="upload",
)

CAPABILITIES: Mapping[ServiceGeneration, Capabilities] = {
    capabilities.service_generation: capabilities
    for capabilities in (
        _LEGACY,
        _CLI_0_10,
        _SDK_1,
        _SDK_2_0,
        _SDK_2_1,
        _GATEWAY,
        _OPENAI,
    )
}
