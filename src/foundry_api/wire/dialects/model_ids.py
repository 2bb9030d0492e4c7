"""Parsing of model ids."""

from __future__ import annotations

import re

__all__ = ["guess_aliases", "parse_version", "strip_version"]

_VERSION = re.compile(r":([0-9]{1,9})$")
_VARIANT = re.compile(r"(?:-instruct|-chat)?(?:-[a-z0-9]+-(?:cpu|gpu|npu))?$", re.IGNORECASE)


def strip_version(model_id: str) -> str:
    """Remove the version, as in `Phi-4-mini-instruct-generic-cpu:4`."""
    return _VERSION.sub("", model_id)


def parse_version(model_id: str) -> int:
    """Return the version of an id, or 0 if it has none."""
    match = _VERSION.search(model_id)
    return int(match[1]) if match else 0


def guess_aliases(model_id: str) -> tuple[str, str]:
    """Return the possible aliases of a model, the most likely one first."""
    # Microsoft's ids contain the variant: `Phi-4-mini-instruct-generic-cpu:4` has the alias
    # `phi-4-mini`. The alias of a registered model is its id without the version.
    name = model_id.rpartition(":")[0] or model_id
    return _VARIANT.sub("", name).lower(), name
