"""`from health_monitor import HealthMonitor` beside this checkout; not in the wheel."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from foundry_api import HealthMonitor, HealthStatus

__all__ = ["HealthMonitor", "HealthStatus"]
