"""A table on the terminal that follows a service's health."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Self

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from rich.text import Text

from foundry_api.cli.output import STATE_COLOURS, duration, printable
from foundry_api.cli.status import memory

if TYPE_CHECKING:
    from foundry_api.health import HealthStatus

__all__ = ["LiveTable"]

ROWS = 12


class LiveTable:
    """The newest looks, the last one at the bottom."""

    def __init__(self) -> None:
        self._seen: deque[HealthStatus] = deque(maxlen=ROWS)
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._live.stop()

    def show(self, health: HealthStatus) -> None:
        """Add a look."""
        self._seen.append(health)
        self._live.update(self._table(health), refresh=True)

    def _table(self, newest: HealthStatus) -> Table:
        told = (newest.service or "no service", newest.version or "", duration(newest.uptime))
        table = Table(
            title=printable("  ".join(part for part in told if part)),
            caption=Text(printable(newest.detail)),
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        for header in ("time", "status", "latency", "memory", "loaded"):
            table.add_column(header, justify="right" if header in {"latency", "memory"} else "left")
        for health in self._seen:
            table.add_row(*_cells(health))
        return table


def _cells(health: HealthStatus) -> tuple[Text, ...]:
    """A row. `Text`, because a model's name may look like rich's markup."""
    return (
        Text(f"{datetime.fromtimestamp(health.checked_at).astimezone():%H:%M:%S}"),
        Text(health.status, style=STATE_COLOURS[health.status]),
        Text(duration(health.latency_s)),
        Text(memory(health)),
        Text(printable(", ".join(health.loaded_models))),
    )
