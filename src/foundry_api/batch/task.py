"""One line of a batch, as the scheduler sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError

__all__ = ["BatchTask", "TaskState"]

_R = TypeVar("_R")


class BatchTask(ABC, Generic[_R]):
    """One line to answer. Tasks with the same key share an answer; those without share none."""

    __slots__ = ("group", "index", "key")

    def __init__(self, index: int, group: str, key: bytes | None = None) -> None:
        self.index = index
        self.group = group  # tasks of one group run together, since they use one model
        self.key = key

    @abstractmethod
    async def run(self) -> _R:
        """Answer the line. Called again after a failure."""

    @abstractmethod
    def make_failed_result(self, error: FoundryError) -> _R: ...

    @abstractmethod
    def make_shared_result(self, result: _R) -> _R:
        """Make this task's result out of that of an identical one."""


class TaskState(Generic[_R]):
    """What the scheduler stores about a task."""

    __slots__ = (
        "crashes",
        "followers",
        "ran_alone",
        "ran_with_other_models",
        "service_unreachable",
        "task",
        "transient_failures",
    )

    def __init__(self, task: BatchTask[_R]) -> None:
        self.task = task
        self.transient_failures = 0
        self.crashes = 0  # crashes of the service with nothing else in flight
        # About the last attempt: whether nothing else was in flight, whether lines of other models
        # were in flight when it started, and whether the service's status could not be read after
        # it.
        self.ran_alone = False
        self.ran_with_other_models = False
        self.service_unreachable = False
        self.followers: list[BatchTask[_R]] = []  # identical tasks that wait for its result
