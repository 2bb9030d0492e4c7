"""What answers the lines of a batch, as the options wish it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from foundry_api.cli.output import printable
from foundry_api.cli.session import Session
from foundry_api.resilience.limiter import LimiterSettings

if TYPE_CHECKING:
    from pathlib import Path

    from foundry_api.batch.engine import BatchEngine
    from foundry_api.cli.batch.wishes import EngineWishes
    from foundry_api.cli.options import Common

__all__ = ["engine_of", "session_of"]


def session_of(common: Common, wishes: EngineWishes, *, model: str | None = None) -> Session:
    """A client and its loop, as the options wish it."""
    return Session(
        common,
        model=model,
        base_urls=wishes.base_urls,
        limiter=LimiterSettings(fixed=wishes.concurrency) if wishes.concurrency else None,
        timeout_s=wishes.timeout_s,
        deadline_s=wishes.deadline_s,
    )


def engine_of(
    session: Session,
    wishes: EngineWishes,
    *,
    attempts: int,
    patience_s: float,
    dedupe: bool | Path = False,
) -> BatchEngine:
    """The engine that the options wish.

    Args:
        session: Whose client asks, or whose settings the clients of a cluster have.
        wishes: What was said.
        attempts: How often a line is begun.
        patience_s: Seconds that all services may be away.
        dedupe: Whether identical lines are asked once; a directory keeps their answers.
    """
    if wishes.engine == "ray":
        from foundry_api.batch.ray_engine import RayEngine  # noqa: PLC0415 - few batches need it

        return RayEngine(
            address=wishes.ray_address,
            settings=session.settings,
            attempts=attempts,
            patience_s=patience_s,
            dedupe=bool(dedupe),
            tell=lambda told: click.echo(printable(told), err=True),
        )
    from foundry_api.batch.local_engine import LocalEngine  # noqa: PLC0415 - the other one is above

    return LocalEngine(session.client, attempts=attempts, patience_s=patience_s, dedupe=dedupe)
