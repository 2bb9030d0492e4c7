"""One face for every client: a whole answer, and an answer piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Client(Protocol):
    """What every client can do."""

    async def complete(self, prompt: str) -> str:
        """A whole answer."""
        ...

    def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


def turns(prompt: str) -> list[dict[str, str]]:
    """The conversation."""
    return [{"role": "user", "content": prompt}]


class ByHand:
    """The floor."""

    def __init__(self, base_url: str, most: int) -> None:
        import aiohttp
        from parts import floor

        self._by_hand = floor.by_hand
        self._pieces = floor.pieces
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=most))
        self._base_url = base_url

    async def complete(self, prompt: str) -> str:
        """A whole answer."""
        return await self._by_hand(self._session, self._base_url, prompt)

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        async for text in self._pieces(self._session, self._base_url, prompt):
            yield text

    async def close(self) -> None:
        """Close what is open."""
        await self._session.close()


class Ours:
    """`foundry_api` as its users have it, with every guard on."""

    def __init__(self, base_url: str, most: int) -> None:
        from foundry_api import FoundryAPIClient, LimiterSettings

        # The peers have no limiter: so many calls at once have to be in flight at once.
        limits = LimiterSettings(initial=most, maximum=max(256, most))
        self._client = FoundryAPIClient(base_url, model="tiny", limiter=limits)

    async def complete(self, prompt: str) -> str:
        """A whole answer."""
        return (await self._client.complete(prompt)).content

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        async for chunk in self._client.stream_complete(prompt):
            yield chunk.content

    async def close(self) -> None:
        """Close what is open."""
        await self._client.close()


class Streaming:
    """What the peers share: they stream, and whole answers are put together."""

    def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        raise NotImplementedError

    async def complete(self, prompt: str) -> str:
        """A whole answer."""
        return "".join([text async for text in self.stream(prompt)])

    async def close(self) -> None:
        """Nothing, where the library does it itself."""


class OpenAI(Streaming):
    """`openai`, which allows 1,000 connections."""

    def __init__(self, base_url: str, _most: int) -> None:
        import openai

        self._client = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none")

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        told: Any = await self._client.chat.completions.create(
            model="tiny:1",
            messages=turns(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in told:
            for choice in chunk.choices:
                yield choice.delta.content or ""

    async def close(self) -> None:
        """Close what is open."""
        await self._client.close()


class Ollama(Streaming):
    """`ollama`."""

    def __init__(self, base_url: str, most: int) -> None:
        import httpx
        import ollama

        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._client = ollama.AsyncClient(host=base_url, limits=limits)

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        told: Any = await self._client.chat(model="tiny:1", messages=turns(prompt), stream=True)
        async for part in told:
            yield part.message.content or ""


class LiteLLM(Streaming):
    """`litellm`."""

    def __init__(self, base_url: str, _most: int) -> None:
        import litellm

        self._base_url = f"{base_url}/v1"
        self._acompletion = litellm.acompletion

    async def stream(self, prompt: str) -> AsyncGenerator[str]:
        """An answer, piece by piece."""
        told: Any = await self._acompletion(
            model="openai/tiny:1",
            api_base=self._base_url,
            api_key="none",
            messages=turns(prompt),
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in told:
            for choice in chunk.choices:
                yield choice.delta.content or ""


CLIENTS: dict[str, type[Any]] = {
    "aiohttp": ByHand,
    "foundry-api": Ours,
    "openai": OpenAI,
    "ollama": Ollama,
    "litellm": LiteLLM,
}


def opened(peer: str, base_url: str, most: int) -> Client:
    """A client.

    Args:
        peer: Its name.
        base_url: Whom it calls.
        most: Calls at once that it has to allow.
    """
    client: Client = CLIENTS[peer](base_url, most)
    return client
