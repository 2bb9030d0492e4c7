"""Libraries whose types are half unknown, as what they are to a type checker: anything.

Importing this imports Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["arrow", "data", "ray"]

ray: Any = import_module("ray")
data: Any = import_module("ray.data")
arrow: Any = import_module("pyarrow")
