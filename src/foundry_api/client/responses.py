"""`client.responses`: the Responses API, the same for all generations that support it."""

from __future__ import annotations

import logging
from contextlib import aclosing
from heapq import merge
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from foundry_api.core.call import Call, CallRequest
from foundry_api.core.options import ResponseOptions, TimeOptions, resolve_timeouts
from foundry_api.core.raw_request import make_raw_call, make_raw_request
from foundry_api.core.responses import build_operation, make_reader, validate_response_id
from foundry_api.types.checks import check_flag, check_int, check_name
from foundry_api.types.errors import (
    FoundryError,
    InvalidRequest,
    ResponseNotFound,
    UnsupportedFeature,
)
from foundry_api.types.results import Response, ResponseEvent, ResponsePage
from foundry_api.types.values import as_text, format_value
from foundry_api.wire.endpoints.responses import RESPONSES_ROUTE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self, Unpack

    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Outcome
    from foundry_api.core.residency.stored_responses import Retention
    from foundry_api.core.responses import Input, ResponseOperation
    from foundry_api.core.runtime import ClientRuntime
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.types.results import RawResponse, ResponseItem
    from foundry_api.wire.dialects.base import Catalog

__all__ = ["Conversation", "Responses"]


log = logging.getLogger("foundry_api")


class Conversation:
    """A conversation that the service stores. Leaving its context manager deletes it.

    Args:
        responses: Sends the messages.
        options: Options of every message.

    Attributes:
        last: The last response; None before the first.
    """

    def __init__(self, responses: Responses, options: ResponseOptions) -> None:
        self.last: Response | None = None
        self._responses = responses
        self._options = options
        self._ids: list[str] = []

    async def send(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:  # noqa: A002 - OpenAI's own name
        """Send the next message and return the response. Raises the errors of `Responses.create`.

        Args:
            input: As in `Responses.create`.
            options: Override the conversation's options; see `ResponseOptions`.
        """
        all_options = self._merge_options(options)
        return self._record_response(
            await self._responses.run_operation(
                self._build_operation(input, all_options), all_options
            )
        )

    def stream(
        self,
        input: Input,  # noqa: A002 - OpenAI's own name
        **options: Unpack[ResponseOptions],
    ) -> AsyncGenerator[ResponseEvent]:
        """Send the next message and stream the events of the response.

        The response becomes part of the conversation with its last event.

        Args:
            input: As in `Responses.create`.
            options: Override the conversation's options; see `ResponseOptions`.
        """
        all_options = self._merge_options(options)
        return self._collect(
            self._responses.stream_operation(self._build_operation(input, all_options), all_options)
        )

    async def _collect(
        self, events: AsyncGenerator[ResponseEvent]
    ) -> AsyncGenerator[ResponseEvent]:
        async with aclosing(events):
            async for event in events:
                if event.response is not None and event.response.timings is not None:
                    self._record_response(event.response)
                yield event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ids, self._ids = self._ids, []
        for name in () if self._options.get("keep") else reversed(ids):
            try:
                await self._responses.delete(name)
            except ResponseNotFound:
                # Deleting a later response deleted it too (2.1), or the store evicted it.
                continue
            except FoundryError as failure:
                log.debug("the stored response %s was not deleted: %s", name, failure)

    def _merge_options(self, options: ResponseOptions) -> ResponseOptions:
        return cast("ResponseOptions", {**self._options, **options, "store": True})

    def _build_operation(
        self, response_input: Input, options: ResponseOptions
    ) -> ResponseOperation:
        previous = self.last
        options["previous_response_id"] = previous.id if previous else None
        retention: Retention = "forever" if options.get("keep") else "conversation"
        return build_operation(
            response_input, options, retention=retention, is_continuation=previous is not None
        )

    def _record_response(self, response: Response) -> Response:
        self.last = response
        self._ids.append(response.id)
        return response


# The most that a service lists at once. It stores 20 by default and at most this many
# (docs/foundry-local-service.md, 1D), so one page has them all.
PAGE_SIZE = 100

_TERMINAL = frozenset({"response.completed", "response.incomplete"})


class Responses:
    """Create and manage responses.

    Args:
        backend: The client's runtime.
    """

    def __init__(self, backend: ClientRuntime) -> None:
        self._backend = backend

    async def create(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:  # noqa: A002 - OpenAI's own name
        """Create a response and return it.

        Args:
            input: A string, or items: mappings as in OpenAI's Responses API, `Message`s, or items
                of earlier responses. Images are paths or data URLs in `input_image` parts.
            options: See `ResponseOptions`.

        Returns:
            A response whose status is `completed`, or `incomplete` if it was truncated.

        Raises:
            InvalidRequest: An argument is invalid; nothing was sent.
            ResponseNotFound: The service does not store the previous response.
            ModelTaskMismatch: The model cannot read images.
            UnsupportedFeature: The service generation does not support this.
            ModelError: The model is unknown, not downloaded, or cannot be loaded.
            CallTimeout: The time-out or the deadline passed. The engine's work was stopped.
            StreamInterrupted: The response broke off; `.partial` has the text so far.
            ServiceError: The service failed.
        """
        return await self.run_operation(build_operation(input, options), options)

    def stream(
        self,
        input: Input,  # noqa: A002 - OpenAI's own name
        **options: Unpack[ResponseOptions],
    ) -> AsyncGenerator[ResponseEvent]:
        """Create a response and stream its events. Leaving the loop early stops the engine's work.

        Args:
            input: As in `create`.
            options: See `ResponseOptions`.

        Raises:
            FoundryError: As in `create`; for invalid arguments at once, else while iterating.
        """
        return self.stream_operation(build_operation(input, options), options)

    def conversation(self, **options: Unpack[ResponseOptions]) -> Conversation:
        """Start a conversation that the service stores until the end of the block.

            async with client.responses.conversation(model="phi-4-mini") as conversation:
                print((await conversation.send("My name is Ada.")).output_text)
                print((await conversation.send("What is my name?")).output_text)

        Args:
            options: Options of every message; see `ResponseOptions`.
        """
        return Conversation(self, options)

    async def get(self, response_id: str, **options: Unpack[TimeOptions]) -> Response:
        """Return a stored response.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        connection, response = await self._request_stored(response_id, "GET", "", options)
        return make_reader(connection).parse_response(response.body)

    async def input_items(
        self, response_id: str, **options: Unpack[TimeOptions]
    ) -> tuple[ResponseItem, ...]:
        """Return the input of a stored response, without that of earlier responses.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        connection, response = await self._request_stored(
            response_id, "GET", "/input_items", options
        )
        return make_reader(connection).parse_items(response.body)

    async def delete(self, response_id: str, **options: Unpack[TimeOptions]) -> None:
        """Delete a stored response. From SDK 2.1 on, responses that follow it are deleted too.

        Raises:
            ResponseNotFound: No service stores it.
            ServiceError: The service failed.
        """
        connection, _ = await self._request_stored(response_id, "DELETE", "", options)
        connection.stored_responses.forget(response_id)

    async def list(
        self,
        *,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        **options: Unpack[TimeOptions],
    ) -> ResponsePage:
        """List stored responses, including those of other clients.

        Args:
            limit: Maximum number of responses, 1 to 100.
            order: `desc` for the newest first. SDK 1.x does not order those of the same second.
            after: List the responses after this one.
            options: See `TimeOptions`.

        Raises:
            InvalidRequest: An argument is invalid; `.field` names it.
            ResponseNotFound: No service stores the response `after`.
            ServiceError: The service failed.
        """
        limit = check_int("limit", limit, 1, PAGE_SIZE) or 1
        if as_text(order) not in {"asc", "desc"}:
            raise InvalidRequest(
                f"order is {format_value(order)}, neither asc nor desc", field="order"
            )
        if after is not None:
            after = validate_response_id("after", after)
        resolve_timeouts(self._backend, options)[1].check()
        pages = [
            await self._list_all(service, catalog, order, options)
            for service in self._backend.services
            for catalog in (await service.connect()).dialect.catalogs
        ]
        newest_first = order == "desc"
        responses = tuple(
            merge(*pages, key=lambda response: response.created_at, reverse=newest_first)
        )
        rest = _slice_after(responses, after) if after is not None else responses
        return ResponsePage(responses=rest[:limit], has_more=len(rest) > limit)

    async def run_operation(
        self, operation: ResponseOperation, options: ResponseOptions
    ) -> Response:
        """Run a validated operation; for `Conversation`."""
        return _add_call_details(await self._new_call(operation, options).result())

    def stream_operation(
        self, operation: ResponseOperation, options: ResponseOptions
    ) -> AsyncGenerator[ResponseEvent]:
        """Stream a validated operation; for `Conversation`."""
        return _stream_events(self._new_call(operation, options))

    def _new_call(
        self, operation: ResponseOperation, options: ResponseOptions
    ) -> Call[ResponseEvent, Outcome[Response]]:
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        requested_model = options.get("model")
        model = (
            self._backend.settings.model
            if requested_model is None
            else check_name("model", requested_model)
        )
        download = check_flag("download", options.get("download"))
        request = CallRequest((model,), operation, timeout_s, deadline, download)
        service = self._owner(operation.members.get("previous_response_id"))
        return Call(self._backend.call_context, request, operation, service)

    def _owner(self, response_id: str | None) -> ServiceHandle | None:
        """Return the service that stores a response of this client."""
        for service in self._backend.services:
            connection = service.connection
            if (
                response_id
                and connection is not None
                and response_id in connection.stored_responses
            ):
                return service
        return None

    async def _request_stored(
        self, response_id: str, method: str, suffix: str, options: TimeOptions
    ) -> tuple[Connection, RawResponse]:
        """Send a request about a response to the service that stores it, or to each in turn."""
        name = validate_response_id("response_id", response_id)
        resolve_timeouts(self._backend, options)[1].check()
        owner = self._owner(name)
        missing: ResponseNotFound | None = None
        for service in [owner] if owner else self._backend.services:
            connection = await service.connect()
            for catalog in connection.stored_responses.list_catalogs(name):
                try:
                    route = f"{RESPONSES_ROUTE}/{name}{suffix}"
                    return await self._request(service, catalog, method, route, options)
                except ResponseNotFound as error:
                    missing = error
            connection.stored_responses.forget(name)
        raise missing or ResponseNotFound(f"no service stores the response {name}")

    async def _list_all(
        self, service: ServiceHandle, catalog: Catalog, order: str, options: TimeOptions
    ) -> tuple[Response, ...]:
        route = f"{RESPONSES_ROUTE}?limit={PAGE_SIZE}&order={order}"
        connection, response = await self._request(service, catalog, "GET", route, options)
        return make_reader(connection).parse_page(response.body).responses

    async def _request(
        self,
        service: ServiceHandle,
        catalog: Catalog,
        method: str,
        route: str,
        options: TimeOptions,
    ) -> tuple[Connection, RawResponse]:
        timeout_s, deadline = resolve_timeouts(self._backend, options)
        connection = await service.connect()
        if connection.dialect.capabilities.responses == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {connection.endpoint.service_generation} has no "
                "Responses API",
                service=connection.base_url,
            )
        request = make_raw_request(method, connection.dialect.make_path(catalog, route))
        call = make_raw_call(self._backend.call_context, request, timeout_s, deadline, service)
        return connection, await call.result()


async def _stream_events(
    call: Call[ResponseEvent, Outcome[Response]],
) -> AsyncGenerator[ResponseEvent]:
    last: ResponseEvent | None = None
    async with aclosing(call.chunks()) as events:
        async for event in events:
            if event.type in _TERMINAL:
                last = event
            else:
                yield event
    if last is not None:
        yield msgspec.structs.replace(last, response=_add_call_details(call.outcome))


def _add_call_details(outcome: Outcome[Response]) -> Response:
    return msgspec.structs.replace(
        outcome.result, timings=outcome.timings, attempts=outcome.attempts
    )


def _slice_after(responses: tuple[Response, ...], name: str) -> tuple[Response, ...]:
    # Not left to the service: 2.x would list from the start for an id that it does not store.
    names = [response.id for response in responses]
    if name not in names:
        raise ResponseNotFound(f"no service stores the response {name}", field="after")
    return responses[names.index(name) + 1 :]
