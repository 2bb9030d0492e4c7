"""Ray, typed as Any because half of its types are unknown. Imports Ray."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["ray"]

ray: Any = import_module("ray")
