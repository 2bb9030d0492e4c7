"""A gateway with keys in front of any service."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from foundry_api import FoundryAPIClient
from foundry_api.gateway.config import GatewayConfig
from foundry_api.gateway.gateway import Gateway
from foundry_api.gateway.keys.database import KeyDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from foundry_api.gateway.keys.types import NewKey

CHAT = "/v1/chat/completions"


class ServedGateway:
    """A gateway that serves, and a client with a key of it.

    Attributes:
        gateway: The gateway.
        http: Calls it with the first key.
        tokens: The tokens of the keys, in their order.
    """

    def __init__(self, gateway: Gateway, tokens: list[str]) -> None:
        self.gateway = gateway
        self.http = self._open_session(tokens[0] if tokens else None)
        self._sessions = [self.http]
        self.tokens = tokens

    def open_session(self, key: int) -> aiohttp.ClientSession:
        """Return a client with another key."""
        session = self._open_session(self.tokens[key])
        self._sessions.append(session)
        return session

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the gateway has come to a state; fail after a time that no test needs."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - not all of them set an event
                await asyncio.sleep(0.01)

    def _open_session(self, token: str | None) -> aiohttp.ClientSession:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(self.gateway.url, headers=headers, connector=connector)


@asynccontextmanager
async def serve(
    directory: Path,
    base_url: str | None,
    *keys: NewKey,
    config: Any = None,
    client: Any = None,
    **clocks: Any,
) -> AsyncGenerator[ServedGateway]:
    """Serve with new keys in a directory; `config` and `client` have further settings."""
    database = KeyDatabase(directory)
    tokens = [database.create(key)[1] for key in keys]
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(FoundryAPIClient(base_url, **(client or {})))
        gateway = await stack.enter_async_context(
            Gateway(GatewayConfig(**{"port": 0, **(config or {})}), upstream, directory, **clocks)
        )
        served = ServedGateway(gateway, tokens)
        stack.push_async_callback(served.close)
        yield served


def make_body(prompt: str, model: str = "scripted", **options: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **options}


async def call(
    http: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Return the status of a call and the code of its error, which may be an event of a stream."""
    async with http.post(CHAT, json=body, headers=headers) as response:
        text = await response.text()
        code = None
        if '"error"' in text:
            code = text.rpartition('"code":"')[2].partition('"')[0]
        return response.status, code
