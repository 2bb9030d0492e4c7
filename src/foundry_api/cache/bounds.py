"""The bounds that every cache has."""

from __future__ import annotations

from foundry_api.errors import ConfigurationError

__all__ = ["check_bounds"]


def check_bounds(max_bytes: int, max_age_s: float | None) -> None:
    """Refuse bounds under which nothing could be kept.

    Raises:
        ConfigurationError: One of them is not above 0.
    """
    if not max_bytes > 0:
        raise ConfigurationError(
            f"the cache's max_bytes is {max_bytes}", hint="Give bytes above 0, such as 64 * 2**20."
        )
    if max_age_s is not None and not max_age_s > 0:
        raise ConfigurationError(
            f"the cache's max_age_s is {max_age_s}",
            hint="Give seconds above 0, such as 86400; None keeps answers however old they are.",
        )
