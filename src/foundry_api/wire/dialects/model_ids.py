"""What a model's id tells of its names."""

from __future__ import annotations

import re

__all__ = ["guess_aliases", "parse_version", "strip_version"]

_VERSION = re.compile(r":([0-9]{1,9})$")
_VARIANT = re.compile(r"(?:-instruct|-chat)?(?:-[a-z0-9]+-(?:cpu|gpu|npu))?$", re.IGNORECASE)


def strip_version(model_id: str) -> str:
    """`Phi-4-mini-instruct-generic-cpu` of `Phi-4-mini-instruct-generic-cpu:4`."""
    return _VERSION.sub("", model_id)


def parse_version(model_id: str) -> int:
    """The number behind an id's last colon; 0 without one."""
    match = _VERSION.search(model_id)
    return int(match[1]) if match else 0


def guess_aliases(model_id: str) -> tuple[str, str]:
    """What a model's alias may be where no listing tells it, the likeliest first.

    A registered model's alias is its id without version. Microsoft's ids carry the variant as
    well: `Phi-4-mini-instruct-generic-cpu:4` is one of `phi-4-mini`.
    """
    name = model_id.rpartition(":")[0] or model_id
    return _VARIANT.sub("", name).lower(), name
