"""A simulated engine with noise, for the limiter: seeded, in virtual time."""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foundry_api.resilience.limiter import Limiter, LimiterSettings

if TYPE_CHECKING:
    from foundry_api.resilience.limiter import Slot

Curve = Callable[[int], float]  # tokens per second by the calls in flight

STEP_S = 0.02
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What disturbs a machine.

    Attributes:
        deviation: Standard deviation of the logarithm of the speed in a step of 20 ms.
        inertia: Correlation of one step with the next.
        intruder_every_s: Mean time between two stays of another program; 0 for none.
        intruder_stay_s: Mean duration of a stay.
        intruder_share: Share of the machine that the other program takes.
    """

    deviation: float = 0.2
    inertia: float = 0.6
    intruder_every_s: float = 0.0
    intruder_stay_s: float = 1.0
    intruder_share: float = 0.5


class Machine:
    """The speed of a machine over time, the same for all engines that are simulated on it."""

    def __init__(self, noise: Noise, seed: int) -> None:
        self._noise = noise
        self._dice = random.Random(seed)  # noqa: S311 - dice, no secret
        self._level = 0.0
        self._speeds: list[float] = []
        self._changes: list[float] = [0.0]  # of the intruder, which is absent first
        if noise.intruder_every_s:
            while self._changes[-1] < 600.0:
                is_absent = len(self._changes) % 2
                mean_s = noise.intruder_every_s if is_absent else noise.intruder_stay_s
                self._changes.append(self._changes[-1] + self._dice.expovariate(1 / mean_s))

    def speed(self, step: int) -> float:
        noise = self._noise
        while step >= len(self._speeds):
            own = math.sqrt(1 - noise.inertia**2) * self._dice.gauss(0, noise.deviation)
            self._level = noise.inertia * self._level + own
            at_s = len(self._speeds) * STEP_S
            is_present = noise.intruder_every_s and bisect(self._changes, at_s) % 2 == 0
            share = 1 - noise.intruder_share if is_present else 1.0
            self._speeds.append(share * math.exp(self._level))
        return self._speeds[step]


@dataclass
class Burst:
    """Calls that are started at once, at a simulated engine.

    Attributes:
        tokens: Mean number of tokens of an answer.
        prompt: Work before the first token, in tokens.
    """

    machine: Machine
    curve: Curve
    settings: LimiterSettings
    calls: int = 512
    tokens: int = 16
    prompt: int = 2
    now: float = 0.0
    generated: int = 0
    limits: list[int] = field(default_factory=list)  # one for each step

    def run(self, seconds: float = math.inf) -> float:
        """Return the tokens per second until all calls have ended, or of the first seconds."""
        asyncio.run(self._run(seconds))
        return self.generated / self.now

    async def _run(self, seconds: float) -> None:
        self.limiter = Limiter(self.settings, monotonic=lambda: self.now)
        dice = random.Random(7)  # noqa: S311 - dice, no secret
        lengths = [dice.randint(self.tokens // 2, self.tokens * 3 // 2) for _ in range(self.calls)]
        running: list[_Call] = []

        async def call(tokens: int) -> None:
            running.append(_Call(await self.limiter.acquire(), self.prompt + tokens, tokens))

        callers = [asyncio.create_task(call(tokens)) for tokens in lengths]
        await _settle()
        while running and self.now < seconds:
            await self._advance(running)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    async def _advance(self, running: list[_Call]) -> None:
        """Work until the next call ends or the speed changes."""
        step = int(self.now / STEP_S + ROUNDING)
        rate = self.curve(len(running)) * self.machine.speed(step) / len(running)
        work_left = min(call.work_left for call in running)
        duration_s = min(work_left / rate, (step + 1) * STEP_S - self.now)
        self.now += duration_s
        self.limits.append(self.limiter.limit)
        for call in running:
            call.work_left -= rate * duration_s
            new_tokens = call.tokens_left - math.ceil(call.work_left - ROUNDING)
            if new_tokens > 0:
                call.tokens_left -= new_tokens
                self.generated += new_tokens
                call.slot.progress(new_tokens)
        ended = [call for call in running if call.work_left <= ROUNDING]
        if ended:
            running[:] = [call for call in running if call.work_left > ROUNDING]
            for call in ended:
                call.slot.release()
            await _settle()
        elif len(running) < self.limiter.limit:
            await _settle()


@dataclass(slots=True)
class _Call:
    slot: Slot
    work_left: float
    tokens_left: int


async def _settle() -> None:
    """Let the callers with a slot begin."""
    for _ in range(3):
        await asyncio.sleep(0)
