"""One of several services of a client, and the calls that it is for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["ServiceOptions", "ServiceProtocol"]

ServiceProtocol = Literal["foundry", "openai"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """A service beside others, and which share of the calls it gets.

    Attributes:
        name: Its name in the messages and the statistics of the client's owner.
        base_url: Its address, without a slash at its end; None finds a service or starts one.
        protocol: `foundry` for Foundry Local of any generation and for a gateway, `openai` for
            other servers of OpenAI's API.
        models: Names of models that it is called for; empty for all that it lists.
        aliases: Further names of its models; each has the name that the service knows.
        weight: Its share of the calls beside the weights of the others.
        concurrency: Fixed number of calls in flight; None finds the best.
        get_api_key: Returns its bearer token, for each request; None if it needs none.
    """

    name: str
    base_url: str | None = None
    protocol: ServiceProtocol = "foundry"
    models: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    weight: float = 1.0
    concurrency: int | None = None
    get_api_key: Callable[[], str] | None = field(default=None, repr=False)
