"""`SyncResponses`, written by `python3 dev.py generate` from client/responses.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.client.sync.conversation import SyncConversation

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Literal, Unpack

    from foundry_api.client.responses import Responses
    from foundry_api.client.sync.background import BackgroundLoop
    from foundry_api.core.options import ResponseOptions, TimeOptions
    from foundry_api.core.responses import Input
    from foundry_api.types.results import Response, ResponseEvent, ResponseItem, ResponsePage

__all__ = ["SyncResponses"]


class SyncResponses:
    """The responses of a client's services."""

    def __init__(self, loop: BackgroundLoop, calls: Responses) -> None:
        self._loop = loop
        self._async = calls

    def create(self, input: Input, **options: Unpack[ResponseOptions]) -> Response:
        """Create a response and return it.

        Args:
            input: A text, or items: mappings as in OpenAI's Responses API, `Message`s, or items of
                earlier responses. Images are paths or data URLs in `input_image` parts.
            options: See `ResponseOptions`.

        Returns:
            A response that is `completed`, or `incomplete` if it was cut. A failed one is raised.

        Raises:
            InvalidRequest: An argument is at fault; nothing was sent.
            ResponseNotFound: The service does not keep the one to go on from.
            ModelTaskMismatch: The model cannot see the image.
            UnsupportedFeature: The generation of the service cannot do it.
            ModelError: The model is not known, not here, or can't be loaded.
            CallTimeout: A time bound fell. The engine's work was stopped.
            StreamInterrupted: The answer broke off; `.partial` has its beginning.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.create(input, **options))

    def stream(self, input: Input, **options: Unpack[ResponseOptions]) -> Generator[ResponseEvent]:
        """One response, event by event. Leaving the loop early frees the engine.

        Args:
            input: As for `create`.
            options: See `ResponseOptions`.

        Raises:
            FoundryError: As `create`; bad arguments at once, the rest while iterating.
        """
        return self._loop.iterate(lambda: self._async.stream(input, **options))

    def conversation(self, **options: Unpack[ResponseOptions]) -> SyncConversation:
        """Turns that go on from each other, as long as the block lasts.

            with client.responses.conversation(model="phi-4-mini") as talk:
                print((talk.say("My name is Ada.")).output_text)
                print((talk.say("What is my name?")).output_text)

        The service keeps the turns meanwhile, and they are deleted at the end of the block.

        Args:
            options: Of every turn; see `ResponseOptions`.
        """
        return SyncConversation(self._loop, self._async.conversation(**options))

    def get(self, response_id: str, **options: Unpack[TimeOptions]) -> Response:
        """A stored response.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.get(response_id, **options))

    def input_items(
        self, response_id: str, **options: Unpack[TimeOptions]
    ) -> tuple[ResponseItem, ...]:
        """What a stored response was asked, without what it went on from.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.input_items(response_id, **options))

    def delete(self, response_id: str, **options: Unpack[TimeOptions]) -> None:
        """Delete a stored response. From SDK 2.1 on, those that went on from it go with it.

        Raises:
            ResponseNotFound: No service keeps it.
            ServiceError: The service is at fault.
        """
        return self._loop.run(lambda: self._async.delete(response_id, **options))

    def list(
        self,
        *,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        **options: Unpack[TimeOptions],
    ) -> ResponsePage:
        """Stored responses, of this client and of others.

        Args:
            limit: How many, 1 to 100.
            order: `desc` for the newest first; of one second, 1.x has them in no order.
            after: Only those that come after this one in the order.
            options: See `TimeOptions`.

        Raises:
            InvalidRequest: An argument is at fault; `.field` names it.
            ResponseNotFound: No service keeps the one in `after`.
            ServiceError: The service is at fault.
        """
        return self._loop.run(
            lambda: self._async.list(limit=limit, order=order, after=after, **options)
        )
