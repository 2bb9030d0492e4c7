"""Which nodes of a cluster get an engine: by their labels and resources, as Ray places actors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from foundry_api.batch.cluster.cluster import Node

__all__ = ["NodeFilter", "is_label_condition"]

# Ray's forms of the condition for a label: a value, `!value`, `in(a,b)` or `!in(a,b)`.
_CONDITION = re.compile(r"(!?)(?:in\(([^()]*)\)|([^!()\s,]+))")

# Ray's names of resources that are options of their own.
_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


@dataclass(frozen=True, slots=True)
class NodeFilter:
    """Selects nodes.

    Attributes:
        labels: The condition for each label.
        resources: The amounts that a node must have.
    """

    labels: Mapping[str, str]
    resources: Mapping[str, float]

    def matches(self, node: Node) -> bool:
        """Whether a node gets an engine."""
        # A node without CPUs, such as a head with `--num-cpus=0`, is not meant to run work.
        return (
            bool(node.resources.get("CPU"))
            and all(
                _holds(condition, node.labels.get(name)) for name, condition in self.labels.items()
            )
            and all(node.resources.get(name, 0) >= value for name, value in self.resources.items())
        )

    def make_options(self) -> dict[str, Any]:
        """Return Ray's options that reserve the resources for an actor."""
        options: dict[str, Any] = {"num_cpus": 0, "resources": {}}
        for name, value in self.resources.items():
            if name in _OPTIONS:
                options[_OPTIONS[name]] = value
            else:
                options["resources"][name] = value
        return options


def is_label_condition(text: str) -> bool:
    """Whether a text is a condition in one of Ray's forms."""
    return _CONDITION.fullmatch(text) is not None


def _holds(condition: str, label: str | None) -> bool:
    parts = _CONDITION.fullmatch(condition)
    if parts is None:
        return False
    values = [parts[3]] if parts[2] is None else [value.strip() for value in parts[2].split(",")]
    return (label in values) != bool(parts[1])
