"""Budgets: how many requests or tokens a key may use in a period."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from foundry_api.gateway.keys.types import Limit, LimitUnit

__all__ = [
    "Budget",
    "BudgetState",
    "CalendarBudget",
    "Reservation",
    "RollingBudget",
    "make_budget",
]

DAY_S = 86_400.0


class BudgetState(NamedTuple):
    """The state of a budget for storage.

    Attributes:
        used: Units in use.
        ends_at: When none of them counts any more, in seconds since the epoch.
    """

    used: int
    ends_at: float


class Reservation(NamedTuple):
    """Units that a running call may use.

    Attributes:
        budget: The budget that they are of.
        units: How many.
        ends_at: When the budget has renewed them.
    """

    budget: Budget
    units: int
    ends_at: float

    def settle(self, used: int, now: float) -> None:
        """Use units instead of the reserved ones. Those that were renewed are not given back."""
        self.budget.settle(self, used, now)


class Budget(Protocol):
    """A number of units that may be used in a period.

    Times are seconds since the epoch, on a clock that never goes back. A call needs all budgets of
    its key several times, so its time is read once for all of them.

    Attributes:
        amount: The units of one period.
        is_quota: Whether it is a quota of a day or a month, which no short wait renews.
    """

    amount: int
    is_quota: bool

    def change_amount(self, amount: int, now: float) -> None:
        """Change the units of one period; what was used counts on."""
        ...

    def get_level(self, now: float) -> tuple[int, float]:
        """Return what remains, and the seconds until all units may be used again."""
        ...

    def get_wait_s(self, units: int, now: float) -> float:
        """Return the seconds until units may be used; 0 if they may be used now."""
        ...

    def use(self, units: int, now: float) -> None:
        """Use units, also more than remain."""
        ...

    def reserve(self, units: int, now: float) -> Reservation:
        """Use units that are settled later: no more than a period has."""
        ...

    def settle(self, reservation: Reservation, used: int, now: float) -> None:
        """See `Reservation.settle`."""
        ...

    def get_state(self, now: float) -> BudgetState:
        """Return what to store, so that a restart grants nothing anew."""
        ...

    def restore(self, state: BudgetState, now: float) -> None:
        """Continue with what was stored; a period that has ended counts no more."""
        ...


class RollingBudget:
    """Renews units continuously: the generic cell rate algorithm.

    Its only state is the time at which all units are renewed, so a refused request knows exactly
    when it is allowed.
    """

    # Every call asks several budgets several times. Comparing takes a tenth of `min` and `max`.

    is_quota = False

    def __init__(self, amount: int, period_s: float, now: float) -> None:
        self.amount = amount
        self._period_s = period_s
        self._unit_s = period_s / amount
        # Times count from here: seconds since the epoch are too large for parts of a microsecond.
        self._epoch = now
        self._full_at = 0.0

    def change_amount(self, amount: int, now: float) -> None:
        used = max(0.0, self._full_at - (now - self._epoch)) / self._unit_s
        self.amount, self._unit_s = amount, self._period_s / amount
        # Of a smaller amount more may be in use than there is. It is free after a period anyway.
        self._full_at = now - self._epoch + min(used * self._unit_s, self._period_s)

    def get_level(self, now: float) -> tuple[int, float]:
        reset_s = self._full_at - (now - self._epoch)
        if reset_s <= 0:
            return self.amount, 0.0
        return max(0, int((self._period_s - reset_s) / self._unit_s + 1e-9)), reset_s

    def get_wait_s(self, units: int, now: float) -> float:
        # A request for more than a period has could never run; it may run on a full budget.
        if units > self.amount:
            units = self.amount
        reset_s = self._full_at - (now - self._epoch)
        wait_s = (reset_s if reset_s > 0 else 0.0) + units * self._unit_s - self._period_s
        # Rounding must not refuse the last unit.
        return wait_s if wait_s > 1e-9 * self._period_s else 0.0

    def use(self, units: int, now: float) -> None:
        moment = now - self._epoch
        if self._full_at < moment:
            self._full_at = moment
        self._full_at += units * self._unit_s

    def reserve(self, units: int, now: float) -> Reservation:
        if units > self.amount:
            units = self.amount
        self.use(units, now)
        return Reservation(self, units, self._full_at)

    def settle(self, reservation: Reservation, used: int, now: float) -> None:
        unused = reservation.units - used
        if unused < 0:
            self.use(-unused, now)
        else:
            # Giving back what time has renewed would take away what other calls have used.
            remaining_s = reservation.ends_at - (now - self._epoch)
            if remaining_s > 0:
                self._full_at -= min(unused * self._unit_s, remaining_s)

    def get_state(self, now: float) -> BudgetState:
        remaining, reset_s = self.get_level(now)
        return BudgetState(self.amount - remaining, now + reset_s)

    def restore(self, state: BudgetState, now: float) -> None:
        # A clock that was ahead must not lock a key out for longer than a period.
        reset_s = min(max(0.0, state.ends_at - now), self._period_s)
        self._full_at = now - self._epoch + reset_s


class CalendarBudget:
    """Renews all units at the start of each day or month, in UTC."""

    is_quota = True

    def __init__(self, amount: int, unit: LimitUnit, now: float) -> None:
        self.amount = amount
        self._is_monthly = unit == "mo"
        self._longest_s = (31 if self._is_monthly else 1) * DAY_S
        self._used = 0
        self._ends_at = self._find_end(now)

    def change_amount(self, amount: int, now: float) -> None:
        del now
        self.amount = amount

    def get_level(self, now: float) -> tuple[int, float]:
        self._renew(now)
        return max(0, self.amount - self._used), self._ends_at - now

    def get_wait_s(self, units: int, now: float) -> float:
        self._renew(now)
        if units > self.amount:
            units = self.amount
        is_enough = not units or self._used + units <= self.amount
        return 0.0 if is_enough else self._ends_at - now

    def use(self, units: int, now: float) -> None:
        self._renew(now)
        self._used += units

    def reserve(self, units: int, now: float) -> Reservation:
        if units > self.amount:
            units = self.amount
        self.use(units, now)
        return Reservation(self, units, self._ends_at)

    def settle(self, reservation: Reservation, used: int, now: float) -> None:
        self._renew(now)
        more = used - reservation.units
        # What was reserved in an earlier period has been used up there.
        if more > 0 or reservation.ends_at == self._ends_at:
            self._used += more

    def get_state(self, now: float) -> BudgetState:
        self._renew(now)
        return BudgetState(self._used, self._ends_at)

    def restore(self, state: BudgetState, now: float) -> None:
        if state.ends_at > now:
            self._used, self._ends_at = state

    def _renew(self, now: float) -> None:
        """Start the period of the present time."""
        # Only a later period renews: a clock that is set back grants nothing anew.
        if now >= self._ends_at:
            self._used, self._ends_at = 0, self._find_end(now)
        elif self._ends_at - now > self._longest_s:
            # The clock was ahead. What was used counts until the end of the present period, not
            # until the clock gets there again, which may take years.
            self._ends_at = self._find_end(now)

    def _find_end(self, now: float) -> float:
        start = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if not self._is_monthly:
            return (start + timedelta(days=1)).timestamp()
        # Day 1 of the month after: 32 days after the first of a month is always in it.
        return (start.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def make_budget(limit: Limit, now: float) -> Budget:
    """Make the budget of a limit: of a day or a month by the calendar, else rolling."""
    period_s = limit.period_s
    if period_s is None or limit.unit == "d":
        return CalendarBudget(limit.amount, limit.unit, now)
    return RollingBudget(limit.amount, period_s, now)
