"""What a pump has to do: one task for each line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError

__all__ = ["BatchTask", "TaskState"]

_R = TypeVar("_R")


class BatchTask(ABC, Generic[_R]):
    """One line to answer.

    Args:
        index: Its place among the lines.
        group: Those of the same group are answered together.
        key: The same for all that may share an answer; None for one that shares none.
    """

    __slots__ = ("group", "index", "key")

    def __init__(self, index: int, group: str, key: bytes | None = None) -> None:
        self.index = index
        self.group = group
        self.key = key

    @abstractmethod
    async def run(self) -> _R:
        """Answer it. May be called again after it failed.

        Raises:
            FoundryError: It failed.
        """

    @abstractmethod
    def make_failed_result(self, error: FoundryError) -> _R:
        """The result of one that failed for good."""

    @abstractmethod
    def make_shared_result(self, result: _R) -> _R:
        """Its result, where that of an identical one is known."""


class TaskState(Generic[_R]):
    """What a pump knows of a task.

    Attributes:
        task: What to do.
        tries: How often it failed for a passing reason.
        crashes: How often the service died while nothing else was in flight.
        ran_alone: Whether nothing else was in flight during the last try.
        ran_with_other_models: Whether lines of other models were in flight when the last try began.
        service_unreachable: Whether the service did not even tell its status after the last try.
        followers: Identical ones that wait for its result.
    """

    __slots__ = (
        "crashes",
        "followers",
        "ran_alone",
        "ran_with_other_models",
        "service_unreachable",
        "task",
        "tries",
    )

    def __init__(self, task: BatchTask[_R]) -> None:
        self.task = task
        self.tries = 0
        self.crashes = 0
        self.ran_alone = False
        self.ran_with_other_models = False
        self.service_unreachable = False
        self.followers: list[BatchTask[_R]] = []
