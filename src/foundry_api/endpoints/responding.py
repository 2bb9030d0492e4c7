"""One response that is asked for: what is checked, sent, and put right."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from foundry_api.arguments import check_flag, check_several, instructions
from foundry_api.endpoints.response_input import (
    has_images,
    input_items,
    json_object,
    numbers,
)
from foundry_api.endpoints.tasks import check_sees
from foundry_api.errors import ContextOverflow, InvalidRequest, ResponseNotFound, UnsupportedFeature
from foundry_api.values import as_text, shown
from foundry_api.wire.dialects.base import QUICK_TIMEOUT_S, error_of
from foundry_api.wire.dialects.constraints import readable_schema
from foundry_api.wire.dialects.openai import DEFAULT_MAX_TOKENS
from foundry_api.wire.endpoints.responses import RESPONSES_ROUTE, ResponseReader, ResponseStream
from foundry_api.wire.transport import OK, fetch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from foundry_api.capabilities import Capabilities
    from foundry_api.connection import Connection
    from foundry_api.endpoints.asking import Asking
    from foundry_api.endpoints.options import ResponseOptions
    from foundry_api.errors import FoundryError
    from foundry_api.events import Operation
    from foundry_api.messages import Message, Model
    from foundry_api.replies.responses import Response, ResponseEvent, ResponseItem
    from foundry_api.residency.stored import Hold
    from foundry_api.wire.transport import Request

    Input = str | Sequence[Mapping[str, Any] | Message | ResponseItem]

    Answering = Asking[ResponseEvent, Response]

__all__ = ["Responding", "checked_id", "reader_of", "responding"]

_ID = re.compile(r"[\w.-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Responding:
    """A response that is asked for.

    Attributes:
        members: Of the JSON body, all but the model and `stream`; checked.
        hold: Until when a stored one stays.
        goes_on: Whether it goes on with a conversation whose instructions were told before.
    """

    members: dict[str, Any]
    hold: Hold = "free"
    goes_on: bool = False
    operation: ClassVar[Operation] = "response"

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be made twice: one that is stored would be kept twice."""
        return not self.members.get("store")

    def check(self, capabilities: Capabilities) -> None:
        """Refuse a generation without responses, or without what this one needs."""
        generation = capabilities.generation
        if capabilities.responses == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {generation} has no Responses API",
                hint="Use chat(), which every generation has.",
            )
        seed = self.members.get("seed")
        if seed is not None and not -capabilities.max_seed - 1 <= seed <= capabilities.max_seed:
            raise InvalidRequest(
                f"seed is {seed}, but {generation} takes {capabilities.max_seed} at most",
                field="seed",
            )
        kind = _format_of(self.members.get("text"))
        if kind != "text" and capabilities.json_schema != "native":
            raise UnsupportedFeature(
                f"a service of generation {generation} ignores a text format of type {kind!r}",
                hint="Leave text out and check the answer, or use a service of SDK 2.1 or later.",
            )

    async def verify(self, connection: Connection, model: Model) -> None:
        """Refuse to go on from what is not there, and images that the model cannot see."""
        previous = self.members.get("previous_response_id")
        corrected = connection.dialect.capabilities.chained_responses == "corrected"
        if previous is not None and corrected:
            await _check_kept(connection, model, previous)
        if has_images(self.members["input"]):
            await check_sees(connection, model)

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        return self._request(connection, model, stream=True)

    def plain(self, connection: Connection, model: Model) -> Request | None:
        """The same without streaming, where a stream that fails at once says nothing."""
        if connection.dialect.capabilities.stream_errors == "native":
            return None
        return self._request(connection, model, stream=False, store=False)

    def decoder(self, connection: Connection, model: Model) -> ResponseStream:
        """Reads the events, and has what is stored released later."""
        store = bool(self.members.get("store"))

        def begun(response_id: str) -> None:
            if store:
                connection.stored.add(response_id, model, self.hold)

        return ResponseStream(reader_of(connection), begun)

    def amended(self, error: FoundryError) -> Responding | None:
        """Ask for what fits, when the caller set no bound and the service's default overflows."""
        if not isinstance(error, ContextOverflow) or "max_output_tokens" in self.members:
            return None
        if (room := error.room) is None:
            error.blame_prompt()
            return None
        return replace(self, members={**self.members, "max_output_tokens": room})

    def _request(self, connection: Connection, model: Model, **more: bool) -> Request:
        body = {"model": model.id, **self.members, **more}
        if self.goes_on and connection.dialect.capabilities.chained_responses == "corrected":
            # 1.2.4 and 2.0.1 keep them with the input, and would read them twice.
            body.pop("instructions", None)
        match body.get("text"):
            case {"format": {"type": "json_schema", "schema": schema} as form, **rest}:
                body["text"] = {**rest, "format": {**form, "schema": readable_schema(schema)}}
            case _:
                pass
        path = connection.dialect.path(model.catalog, RESPONSES_ROUTE)
        return connection.wire.post(path, msgspec.json.encode(body))


def responding(
    said: object, options: ResponseOptions, *, hold: Hold | None = None, goes_on: bool = False
) -> Responding:
    """What is asked for, checked.

    Args:
        said: The input.
        options: The caller's.
        hold: Until when a stored one stays; None goes by the options.
        goes_on: Whether it goes on with a conversation whose instructions were told before.

    Raises:
        InvalidRequest: An argument is at fault; `.field` names it.
    """
    previous, extra = options.get("previous_response_id"), options.get("extra")
    members: dict[str, Any] = {
        **({} if extra is None else json_object("extra", extra)),
        "input": input_items(said),
        "store": check_flag("store", options.get("store")),
        **numbers(
            max_output_tokens=options.get("max_output_tokens"),
            temperature=options.get("temperature"),
            top_p=options.get("top_p"),
            seed=options.get("seed"),
        ),
        **_told(options),
    }
    if previous is not None:
        members["previous_response_id"] = checked_id("previous_response_id", previous)
    hold = hold or ("kept" if check_flag("keep", options.get("keep")) else "free")
    return Responding(members, hold, goes_on)


def _format_of(text: object) -> str:
    """What kind of text is wanted."""
    match text:
        case {"format": {"type": str(kind)}}:
            return kind
        case _:
            return "text"


def checked_id(field: str, value: object) -> str:
    """The id of a response, which becomes part of a path.

    Raises:
        InvalidRequest: It is none.
    """
    name = as_text(value)
    if name is None or not _ID.fullmatch(name) or not name.strip("."):
        raise InvalidRequest(f"{field} is {shown(value)}, not the id of a response", field=field)
    return name


def _told(options: ResponseOptions) -> dict[str, Any]:
    """Those members that were given."""
    told: dict[str, Any] = {}
    metadata = options.get("metadata")
    if (ahead := instructions("instructions", options.get("instructions"))) is not None:
        told["instructions"] = ahead
    if metadata is not None:
        told["metadata"] = _labels(metadata)
    if (tools := options.get("tools")) is not None:
        several = check_several("tools", tools)
        told["tools"] = [_flat(f"tools[{at}]", tool) for at, tool in enumerate(several)]
    if (parallel := options.get("parallel_tool_calls")) is not None:
        told["parallel_tool_calls"] = check_flag("parallel_tool_calls", parallel)
    for name in ("text", "reasoning"):
        if (value := options.get(name)) is not None:
            told[name] = json_object(name, value)
    if (choice := options.get("tool_choice")) is not None:
        word = as_text(choice)
        told["tool_choice"] = json_object("tool_choice", choice) if word is None else word
    return told


def _labels(metadata: Mapping[str, str]) -> dict[str, str]:
    """2.x and 1.x refuse labels that are no texts, one of them with a 500."""
    labels = json_object("metadata", metadata)
    for name, value in labels.items():
        if not isinstance(value, str):
            field = f"metadata[{name!r}]"
            raise InvalidRequest(f"{field} is {shown(value)}, not a text", field=field)
    return labels


def _flat(field: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the Responses API wants it, also where it comes in the form of chat completions."""
    told = json_object(field, tool)
    inner: Any = told.get("function")
    return {"type": "function", **inner} if isinstance(inner, dict) else told


def reader_of(connection: Connection) -> ResponseReader:
    """Who reads the responses of a service."""
    # What calls a cut answer of a chat `stop` calls a cut response `completed`.
    lies = connection.dialect.capabilities.finish_reason == "corrected"
    return ResponseReader(
        connection.base_url,
        connection.endpoint.generation,
        cuts_at=DEFAULT_MAX_TOKENS if lies else None,
    )


async def _check_kept(connection: Connection, model: Model, response_id: str) -> None:
    """1.2.4 and 2.0.1 go on from an unknown response as from none, without a word."""
    path = connection.dialect.path(model.catalog, f"{RESPONSES_ROUTE}/{response_id}")
    request = connection.wire.request("GET", path)
    reply = await fetch(connection.wire.transport, request, timeout_s=QUICK_TIMEOUT_S)
    if reply.status == OK:
        return
    error = error_of(reply)
    if isinstance(error, ResponseNotFound):
        error.field = "previous_response_id"
    raise error.located(model=model.id, service=connection.base_url)
