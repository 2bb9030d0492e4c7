"""Admission of calls: which may start, in which order, and what they use up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from foundry_api.gateway.errors import RequestError, make_model_not_allowed
from foundry_api.gateway.limits.accounts import Account, Accounts
from foundry_api.gateway.limits.lanes import Lanes
from foundry_api.gateway.limits.prompt_ratios import PromptRatios
from foundry_api.gateway.limits.queue_timeouts import QueueTimeouts
from foundry_api.gateway.limits.scheduler import Scheduler, Waiter
from foundry_api.types.errors import (
    CallTimeout,
    FoundryError,
    StreamInterrupted,
    StructuredOutputError,
    ToolCallError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.gateway.config import GatewayConfig
    from foundry_api.gateway.keys.types import ApiKey
    from foundry_api.gateway.limits.budgets import Reservation
    from foundry_api.gateway.limits.lanes import UpstreamSlots
    from foundry_api.types.messages import Usage

__all__ = ["UNKNOWN_WAIT_S", "Admission", "KeyQueue", "Ticket", "Work"]

# Reserved for an answer whose request has no limit: the default of the engine.
DEFAULT_MAX_TOKENS = 2048
# Failures of calls that the engine worked for.
_ENGINE_ERRORS = (CallTimeout, StreamInterrupted, StructuredOutputError, ToolCallError)
# A new call may wait this long when the rate of the service is not known yet.
UNKNOWN_WAIT_S = 1.0


class Work(msgspec.Struct, frozen=True):
    """What a call asks for.

    Attributes:
        model: The model that is sent to the service.
        prompt_tokens: An estimate of the tokens of the prompt.
        max_tokens: The limit of the answer; None for the model's default.
        body_bytes: Size of the request.
        deadline_s: Seconds in which it must start; None if its caller waits for ever.
        is_batch: Whether it waits until no other call does.
        answers: How many answers are generated; each may have `max_tokens`.
        aliases: Further names of the model, one of which the key may have.
    """

    model: str
    prompt_tokens: int
    max_tokens: int | None
    body_bytes: int
    deadline_s: float | None = None
    is_batch: bool = False
    answers: int = 1
    aliases: tuple[str, ...] = ()

    @property
    def most_tokens(self) -> int:
        """The tokens that the call may use at most."""
        answer = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return self.prompt_tokens + answer * self.answers


@dataclass(frozen=True, slots=True)
class KeyQueue:
    """The calls of a key.

    Attributes:
        key_id: The id of the key; `anonymous` without keys.
        running: Its calls that have a slot of the service.
        waiting: Its calls that wait for one.
        estimated_wait_s: How long a new call would wait; None before enough calls have ended.
    """

    key_id: str
    running: int
    waiting: int
    estimated_wait_s: float | None


class Ticket(Waiter):
    """An admitted call. Entering it waits for a slot; leaving it settles what the call used.

    Attributes:
        account: The account of its key.
        queued_s: Seconds that the call waited for its slot.
        has_started: Whether it got a slot.
        prompt_tokens: Tokens of the prompt; an estimate until the service has counted them.
        output_tokens: Tokens of the answer so far.
        lost_prompt_tokens: Tokens of the prompts of tries whose answers were not used.
        lost_output_tokens: Tokens of those answers.
    """

    __slots__ = (
        "_charged_output",
        "_is_closed",
        "_is_counted",
        "_monotonic",
        "_ratios",
        "_reservations",
        "_scheduler",
        "_timeouts",
        "_work",
        "account",
        "has_started",
        "lost_output_tokens",
        "lost_prompt_tokens",
        "output_tokens",
        "queued_s",
    )

    def __init__(
        self,
        scheduler: Scheduler,
        account: Account,
        work: Work,
        reservations: tuple[Reservation, ...],
        *,
        timeouts: QueueTimeouts | None,
        ratios: PromptRatios,
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__(
            account.name,
            account.weight,
            prompt_tokens=work.prompt_tokens,
            body_bytes=work.body_bytes,
            is_batch=work.is_batch,
        )
        self.queued_s = 0.0
        self.has_started = False
        self.output_tokens = 0
        self.lost_prompt_tokens = self.lost_output_tokens = 0
        self._scheduler = scheduler
        self.account = account
        self._work = work
        self._timeouts = timeouts
        self._ratios = ratios
        self._monotonic = monotonic
        self._is_counted = False
        self._charged_output = 0
        self._is_closed = False
        self._reservations = reservations
        scheduler.enter(self)

    async def __aenter__(self) -> Self:
        """Wait for a slot.

        Raises:
            RequestError: None was free in time.
        """
        if self._is_closed:
            raise RuntimeError("the ticket was used before")
        if not self.has_slot:
            started_at = self._monotonic()
            self.slot = slot = asyncio.get_running_loop().create_future()
            if self._timeouts is not None:
                self._timeouts.add(slot)
            try:
                has_slot = await slot
            except BaseException:
                self.close()
                raise
            finally:
                if self._timeouts is not None:
                    self._timeouts.remove(slot)
            if not has_slot:
                self.close()
                raise self._make_timeout_error()
            self.queued_s = self._monotonic() - started_at
        self.has_started = True
        return self

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        # The service refused it, or was not there: the engine has read no prompt.
        if isinstance(error, FoundryError) and not isinstance(error, _ENGINE_ERRORS):
            self.prompt_tokens = 0
        self.close()

    def _make_timeout_error(self) -> RequestError:
        limit_s = 0.0 if self._timeouts is None else self._timeouts.limit_s
        return RequestError(
            503,
            "queue_timeout",
            f"The call waited {limit_s:g} s for a slot of the service, the limit of this gateway "
            "(queue_timeout_s). Call again later.",
            retry_after_s=UNKNOWN_WAIT_S,
        )

    def add_output(self, tokens: int) -> None:
        """Count tokens that were generated."""
        self.output_tokens += tokens
        if not self._is_closed:
            self._charged_output += tokens
            self._scheduler.charge(self, 0, tokens)

    def add_lost(self, prompt_tokens: int, output_tokens: int) -> None:
        """Count what the service did for nothing: the counts of the answer do not include it."""
        self.lost_prompt_tokens += prompt_tokens
        self.lost_output_tokens += output_tokens

    def settle(self, usage: Usage) -> None:
        """Replace the estimates by the counts of the service; several answers add up."""
        if not usage.total_tokens:
            return
        if not self._is_counted:
            self._is_counted = True
            work = self._work
            self._ratios.learn(
                work.model, estimated=work.prompt_tokens, counted=usage.prompt_tokens
            )
            self.prompt_tokens, self.output_tokens = usage.prompt_tokens, 0
        self.output_tokens += usage.completion_tokens

    def close(self) -> None:
        """End the call: free its slot and settle its tokens. Further calls do nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        used = 0  # a call that never started used no tokens
        if self.has_slot:
            model = self._work.model
            if not self._is_counted:
                self.prompt_tokens = self._ratios.correct(model, self.prompt_tokens)
            if self.lost_prompt_tokens:
                self.lost_prompt_tokens = self._ratios.correct(model, self.lost_prompt_tokens)
            prompt_tokens = self.prompt_tokens + self.lost_prompt_tokens
            output_tokens = self.output_tokens + self.lost_output_tokens
            used = prompt_tokens + output_tokens
            # Before the next call gets the slot: its order depends on what this one has received.
            self._scheduler.charge(
                self,
                prompt_tokens - self._work.prompt_tokens,
                output_tokens - self._charged_output,
            )
        self.account.end(self._reservations, used, is_batch=self._work.is_batch)
        self._scheduler.leave(self)


class Admission:
    """Decides about every call in one step, without waiting.

    Args:
        config: Limits of the queue.
        get_slots: Returns how many calls the service takes at the same time.
        get_queue_slots: Returns how many slots the length of the queue is for; default: the same.
        upstreams: The slots of several services; None if there is one.
        monotonic: A clock.
        wall_clock: Seconds since the epoch.

    Attributes:
        accounts: What each key has used.
        scheduler: The queue, or those of several services.
        client_retries: Calls that their client had sent before.
        timeouts: The time limit of the calls that wait for a slot.
    """

    def __init__(
        self,
        config: GatewayConfig,
        get_slots: Callable[[], int],
        get_queue_slots: Callable[[], int] | None = None,
        *,
        upstreams: UpstreamSlots | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._monotonic = monotonic
        self.client_retries = 0
        self.timeouts = QueueTimeouts(config.queue_timeout_s)
        self._ratios = PromptRatios()
        self.accounts = Accounts(wall_clock)
        make_scheduler = partial(
            Scheduler,
            max_per_slot=config.queue_per_slot,
            max_bytes=config.queue_bytes,
            monotonic=monotonic,
        )
        self._lanes: Lanes | None = None
        if upstreams is not None:
            self._lanes = Lanes(upstreams, make_scheduler, max_bytes=config.queue_bytes)
        # One for all calls, unless they are for different services.
        self.scheduler: Scheduler | Lanes = self._lanes or make_scheduler(
            get_slots, get_queue_slots or get_slots
        )

    def admit(self, key: ApiKey | None, work: Work) -> Ticket:
        """Admit a call.

        Raises:
            RequestError: The key's limits or the queue do not allow it; nothing was used up.
        """
        if key is not None and not key.allows_model(work.model, *work.aliases):
            raise make_model_not_allowed(work.model)
        account = self.accounts.get(key)
        scheduler = self.scheduler
        if isinstance(scheduler, Lanes):
            scheduler = scheduler.get_lane(work.model)
        if not work.is_batch:
            account.check_parallel()
            self._check_queue(scheduler, account.name, work)
        return Ticket(
            scheduler,
            account,
            work,
            account.start(work.most_tokens, is_batch=work.is_batch),
            timeouts=None if work.is_batch else self.timeouts,
            ratios=self._ratios,
            monotonic=self._monotonic,
        )

    def has_waiting(self, upstream: str) -> bool:
        """Whether a call waits for a service: the only one, or an upstream with a name."""
        scheduler = self.scheduler
        if isinstance(scheduler, Lanes):
            return scheduler.has_waiting(upstream)
        return scheduler.waiting > 0

    def keep_only(self, keys: Iterable[ApiKey]) -> None:
        """Drop what is known of other keys: they were removed."""
        self.scheduler.forget(self.accounts.forget(keys))

    def describe_queue(self) -> list[KeyQueue]:
        """Return the keys that have calls, those with the most waiting calls first."""
        scheduler = self.scheduler
        queues = [
            KeyQueue(
                account.name,
                running=account.running
                + account.batch_lines
                - (waiting := scheduler.get_depth(account.name)),
                waiting=waiting,
                estimated_wait_s=scheduler.estimate_wait_s(account.name),
            )
            for account in self.accounts
            if account.running or account.batch_lines
        ]
        return sorted(queues, key=lambda queue: -queue.waiting)

    def _check_queue(self, scheduler: Scheduler, name: str, work: Work) -> None:
        # With many upstreams, counting their slots is most of the work.
        can_start = scheduler.can_start
        if can_start and work.deadline_s is None:
            return
        is_full = not can_start and (
            scheduler.is_full(work.body_bytes)
            or (self._lanes is not None and not self._lanes.has_room(work.body_bytes))
        )
        if not is_full and work.deadline_s is None:
            return
        wait_s = scheduler.estimate_wait_s(name, is_batch=work.is_batch)
        if is_full:
            raise RequestError(
                503,
                "queue_full",
                f"The queue of this gateway is full: {scheduler.waiting} calls wait. Call "
                "again later.",
                retry_after_s=UNKNOWN_WAIT_S if wait_s is None else max(wait_s, 0.001),
            )
        if work.deadline_s is None or wait_s is None:
            return
        deadline_s = max(0.0, work.deadline_s)  # it may have passed already
        if wait_s > work.deadline_s:
            raise RequestError(
                504,
                "deadline_exceeded",
                f"The call would wait about {wait_s:.1f} s for a slot, longer than its deadline "
                f"of {deadline_s:g} s. Nothing was sent.",
                should_retry=False,
            )
