"""Which dialect speaks to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.errors import UnsupportedFeature
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from foundry_api.wire.dialects.sdk2 import Sdk20Dialect, Sdk21Dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.messages import Generation
    from foundry_api.wire.dialects.base import Dialect, Wire

__all__ = ["dialect_of"]

_DIALECTS: Mapping[Generation, Callable[[Wire], Dialect]] = {
    "legacy": LegacyDialect,
    "cli-0.10": Cli010Dialect,
    "sdk-1": Sdk1Dialect,
    "sdk-2.0": Sdk20Dialect,
    "sdk-2.1": Sdk21Dialect,
}


def dialect_of(generation: Generation, wire: Wire) -> Dialect:
    """The dialect of a generation, for one service.

    Raises:
        UnsupportedFeature: There is none for it.
    """
    if generation not in _DIALECTS:
        raise UnsupportedFeature(
            f"the service is of generation {generation}, which has no dialect yet",
            hint="Use service='embedded', or a service of the Foundry Local SDK.",
        ).located(service=wire.base_url)
    return _DIALECTS[generation](wire)
