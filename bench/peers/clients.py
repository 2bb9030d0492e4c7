"""One interface for all the clients: complete an answer, or stream it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Client(Protocol):
    """The interface that every client implements here."""

    async def complete(self, prompt: str) -> str: ...

    def stream(self, prompt: str) -> AsyncGenerator[str]: ...

    async def close(self) -> None: ...


def make_messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


class RawAiohttp:
    """The baseline."""

    def __init__(self, base_url: str, max_concurrency: int) -> None:
        import aiohttp
        from parts import baseline

        self._complete = baseline.complete
        self._stream = baseline.stream
        connector = aiohttp.TCPConnector(limit=max_concurrency)
        self._session = aiohttp.ClientSession(connector=connector)
        self._base_url = base_url

    async def complete(self, prompt: str) -> str:
        return await self._complete(self._session, self._base_url, prompt)

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        async for text in self._stream(self._session, self._base_url, prompt):
            yield text

    async def close(self) -> None:
        await self._session.close()


class AsyncioProtocol:
    """The floor: what any client on asyncio costs at least."""

    def __init__(self, base_url: str, _max_concurrency: int) -> None:
        from parts.floor import Floor

        self._floor = Floor(base_url)
        self.complete = self._floor.complete
        self.stream = self._floor.stream
        self.close = self._floor.close


class FoundryAPI:
    """`foundry_api` with its default protections."""

    def __init__(self, base_url: str, max_concurrency: int) -> None:
        from foundry_api import FoundryAPIClient, LimiterSettings

        # The peers have no limiter, so this one must start at the concurrency that they have.
        limits = LimiterSettings(initial=max_concurrency, maximum=max(256, max_concurrency))
        self._client = FoundryAPIClient(base_url, model="tiny", limiter=limits)

    async def complete(self, prompt: str) -> str:
        return (await self._client.complete(prompt)).content

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        async for chunk in self._client.stream_complete(prompt):
            yield chunk.content

    async def close(self) -> None:
        await self._client.close()


class Streaming:
    """A client that always streams, and joins the pieces of a complete answer."""

    def stream(self, prompt: str) -> AsyncGenerator[str]:
        raise NotImplementedError

    async def complete(self, prompt: str) -> str:
        return "".join([text async for text in self.stream(prompt)])

    async def close(self) -> None:
        """Do nothing, if the library has no close."""


class OpenAI(Streaming):
    """`openai`, which allows 1,000 connections by default."""

    def __init__(self, base_url: str, _max_concurrency: int) -> None:
        import openai

        self._client = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none")

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        chunks: Any = await self._client.chat.completions.create(
            model="tiny:1",
            messages=make_messages(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            for choice in chunk.choices:
                yield choice.delta.content or ""

    async def close(self) -> None:
        await self._client.close()


class Ollama(Streaming):
    def __init__(self, base_url: str, max_concurrency: int) -> None:
        import httpx
        import ollama

        limits = httpx.Limits(
            max_connections=max_concurrency, max_keepalive_connections=max_concurrency
        )
        self._client = ollama.AsyncClient(host=base_url, limits=limits)

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        chunks: Any = await self._client.chat(
            model="tiny:1", messages=make_messages(prompt), stream=True
        )
        async for part in chunks:
            yield part.message.content or ""


class LiteLLM(Streaming):
    def __init__(self, base_url: str, _max_concurrency: int) -> None:
        import litellm

        self._base_url = f"{base_url}/v1"
        self._acompletion = litellm.acompletion

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        chunks: Any = await self._acompletion(
            model="openai/tiny:1",
            api_base=self._base_url,
            api_key="none",
            messages=make_messages(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in chunks:
            for choice in chunk.choices:
                yield choice.delta.content or ""


CLIENTS: dict[str, type[Any]] = {
    "aiohttp": RawAiohttp,
    "asyncio": AsyncioProtocol,
    "foundry-api": FoundryAPI,
    "openai": OpenAI,
    "ollama": Ollama,
    "litellm": LiteLLM,
}


def open_client(peer: str, base_url: str, max_concurrency: int) -> Client:
    client: Client = CLIENTS[peer](base_url, max_concurrency)
    return client
