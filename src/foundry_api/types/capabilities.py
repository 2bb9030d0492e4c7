"""What every service generation supports: natively, corrected by this package, or not at all."""

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
"""`native`: the service does it; `corrected`: it does not, or wrongly, and this package makes up
for it; `unsupported`: it cannot be done."""

INT32 = 2**31 - 1
INT64 = 2**63 - 1

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "top_logprobs": (None, 0),
}
"""Values with which a parameter asks for nothing, so that a service may ignore it."""

_UNCONSTRAINED_TOOL_CHOICES = (None, "auto", "none")


class Capabilities(Result, msgspec.Struct, frozen=True, kw_only=True):
    """What one generation of the service can do. Sources: foundry-local-service.md.

    Attributes:
        service_generation: Which one.
        chat: Chat completions, whole and streamed.
        stop: Strings that end an answer.
        finish_reason: Whether an answer that was cut at its bound says so.
        usage: Counts of tokens.
        stream_errors: Whether a stream that fails says why.
        cancellation: Whether the engine stops working when its caller leaves.
        parallel_calls: Whether calls of one model run side by side.
        keep_alive: Whether a stream shows life while the engine reads the prompt.
        json_schema: Whether the engine keeps an answer to a schema. Elsewhere the prompt asks for
            it; every answer is validated.
        choice: Whether the engine keeps an answer to one of several texts. Elsewhere as above.
        grammar: Whether the engine keeps an answer to a grammar in Lark's notation.
        tools: Whether tool calls come apart from the text.
        tool_choice: Whether the model can be made to call a tool, or a certain one.
        tool_history: Whether the turns of earlier tool calls reach the model.
        names: Whether an alias, an id, and an id without its version all mean a model.
        load: Loading models.
        unload: Unloading models.
        unload_while_generating: Whether it survives being asked to unload a model that generates.
            2.x refuses; 1.x dies, so it is asked only when no known call is left.
        parallel_loads: Whether it may be asked to load several models at once.
        download: Downloading models.
        cached: Whether it tells which models' files are on its machine.
        responses: The Responses API.
        chained_responses: Whether it refuses to go on from a response that it does not keep.
        embeddings: Embeddings.
        embed_with_chat_model: Whether it survives being asked to embed with a model that can't.
            From 2.1 on it says so; 1.2.4 and 2.0.1 die, so they are asked only for models that are
            known to embed.
        audio: Transcription.
        audio_upload: How it takes a recording: by its `path` on the service's machine, or as an
            `upload`; None if not at all.
        images: Images in chat completions.
        response_images: Images in responses, for a model that sees.
        refuses_images: Whether it refuses an image in a response whose model sees none.
        max_seed: Largest seed that it takes.
        ignored_parameters: Parameters that it ignores silently; a call with one is refused here.
    """

    service_generation: ServiceGeneration
    chat: Support = "native"
    stop: Support
    finish_reason: Support
    usage: Support = "native"
    stream_errors: Support
    cancellation: Support
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
        """Refuse what the service would ignore or cannot take, before anything is sent.

        Raises:
            InvalidRequest: A value is outside what this generation takes; `.field` names it.
            UnsupportedFeature: This generation cannot do it.
        """
        seed = request.seed
        if seed is not None and not -self.max_seed - 1 <= seed <= self.max_seed:
            raise InvalidRequest(
                f"seed is {seed}, but {self.service_generation} takes {self.max_seed} at most",
                field="seed",
            )
        if (
            self.tool_choice == "unsupported"
            and request.tool_choice not in _UNCONSTRAINED_TOOL_CHOICES
        ):
            raise UnsupportedFeature(
                f"a service of generation {self.service_generation} cannot make a model call "
                "a tool",
                hint="Leave tool_choice out, and ask for the call in the prompt.",
            )
        if self.grammar == "unsupported" and isinstance(request.constraint, GrammarConstraint):
            raise UnsupportedFeature(
                f"a service of generation {self.service_generation} keeps no answer to a grammar",
                hint="Use response_model= or choice=, which are checked everywhere, "
                "or a service of SDK 2.1 or later.",
            )
        for name, value in request.extra.items():
            if name in self.ignored_parameters and value not in _NEUTRAL.get(name, (None,)):
                raise UnsupportedFeature(
                    f"a service of generation {self.service_generation} has no {name}",
                    hint=f"Leave {name} out, or use a service that has it.",
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

_CLI_0_10 = msgspec.structs.replace(
    _SDK_1,
    service_generation="cli-0.10",
    cancellation="unsupported",  # unknown, as are parallel calls and loads, and audio
    parallel_calls="unsupported",
    parallel_loads="unsupported",
    tools="corrected",  # by the prompt, and out of the text
    tool_choice="unsupported",
    tool_history="corrected",
    load="corrected",  # by the user's own `foundry`, as are unloading and downloads
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
    audio="native",  # as documented; 0.8.101 is said to lack it (foundry-local-service.md, 1A)
    audio_upload="upload",
)

CAPABILITIES: Mapping[ServiceGeneration, Capabilities] = {
    each.service_generation: each for each in (_LEGACY, _CLI_0_10, _SDK_1, _SDK_2_0, _SDK_2_1)
}
"""By generation."""
