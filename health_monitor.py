"""Makes `from health_monitor import HealthMonitor` work in a checkout. Not part of the wheel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from foundry_api import (
    AlertCommand,
    AlertWebhook,
    Canary,
    HealthChanged,
    HealthMonitor,
    HealthSample,
    HealthStatus,
    HealthSummary,
    Hysteresis,
    Traffic,
)

__all__ = [
    "AlertCommand",
    "AlertWebhook",
    "Canary",
    "HealthChanged",
    "HealthMonitor",
    "HealthSample",
    "HealthStatus",
    "HealthSummary",
    "Hysteresis",
    "Traffic",
]
