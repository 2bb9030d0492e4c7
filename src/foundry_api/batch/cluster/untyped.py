"""Ray and pyarrow, typed as Any because half of their types are unknown. Imports Ray."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["arrow", "data", "ray"]

ray: Any = import_module("ray")
data: Any = import_module("ray.data")
arrow: Any = import_module("pyarrow")
