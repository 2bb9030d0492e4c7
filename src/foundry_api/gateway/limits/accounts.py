"""Accounts: what each key has used, and what it may still use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.limits.budgets import make_budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from foundry_api.gateway.keys.types import ApiKey, Limit, LimitUnit
    from foundry_api.gateway.limits.budgets import Budget, BudgetState, Reservation

__all__ = ["ANONYMOUS", "Account", "Accounts", "StoredBudget"]

# The account of all calls, if the gateway serves without keys.
ANONYMOUS = "anonymous"


class StoredBudget(NamedTuple):
    """A budget for storage.

    Attributes:
        key_id: The key.
        name: See `Account.get_budgets`.
        state: What is in use.
    """

    key_id: str
    name: str
    state: BudgetState


class Account:
    """What a key has used.

    Attributes:
        name: The id of the key.
        weight: Its share of a busy service.
        running: Its calls that wait or run.
        batch_lines: Its lines of batches that wait or run.
        receiving_bytes: Bytes of its requests that are arriving.
        requests: The budget of requests; None without a limit.
        tokens: The budgets of tokens, by the unit of their period.
        is_changed: Whether it has used something since `Accounts.take_changes`.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.weight = 1.0
        self.running = 0
        self.batch_lines = 0
        self.receiving_bytes = 0
        self.requests: Budget | None = None
        self.tokens: dict[LimitUnit, Budget] = {}
        self.is_changed = False
        self._clock = clock
        self._parallel: int | None = None
        self._rate: Limit | None = None

    def configure(self, key: ApiKey) -> None:
        """Take the limits of a key. What it has used counts on under a limit of the same unit."""
        now = self._clock()
        self.weight, self._parallel = key.weight, key.parallel
        earlier = self.requests if _has_same_unit(key.rate, self._rate) else None
        self._rate = key.rate
        self.requests = None if key.rate is None else _adapt_budget(key.rate, earlier, now)
        self.tokens = {
            limit.unit: _adapt_budget(limit, self.tokens.get(limit.unit), now)
            for limit in key.tokens
        }

    def get_budgets(self) -> dict[str, Budget]:
        """Return all budgets, by what they count and the unit of their period: `tokens/d`."""
        budgets = {f"tokens/{unit}": budget for unit, budget in self.tokens.items()}
        if self._rate is not None and self.requests is not None:
            budgets[f"requests/{self._rate.unit}"] = self.requests
        return budgets

    def check_parallel(self) -> None:
        """Refuse a call if as many run as may.

        Raises:
            RequestError: 429.
        """
        if self._parallel is not None and self.running >= self._parallel:
            raise RequestError(
                429,
                "rate_limit_exceeded",
                f"This key may have {self._parallel} calls at the same time, and has as many. Call "
                "again when one has ended.",
                retry_after_s=1.0,
            )

    def start(self, tokens: int, *, is_batch: bool = False) -> tuple[Reservation, ...]:
        """Count a call that starts; return the tokens that are reserved for it.

        A batch uses tokens, no requests.

        Raises:
            RequestError: 429, with the time at which all budgets allow the same call.
        """
        now = self._clock()
        self._check_budgets(tokens, now, is_batch=is_batch)
        self.is_changed = True
        if is_batch:
            self.batch_lines += 1
        else:
            self.running += 1
            if self.requests is not None:
                self.requests.use(1, now)
        return tuple([budget.reserve(tokens, now) for budget in self.tokens.values()])

    def end(
        self, reservations: Iterable[Reservation], used: int, *, is_batch: bool = False
    ) -> None:
        """Count a call that ended: use the tokens that it used instead of the reserved ones."""
        if is_batch:
            self.batch_lines -= 1
        else:
            self.running -= 1
        self.is_changed = True
        now = self._clock()
        for reservation in reservations:
            reservation.settle(used, now)

    def _check_budgets(self, tokens: int, now: float, *, is_batch: bool) -> None:
        wait_s, unit, budget, needed = 0.0, None, self.requests, None
        if budget is not None and self._rate is not None and not is_batch:
            wait_s, unit = budget.get_wait_s(1, now), self._rate.unit
        for other_unit, other in self.tokens.items():
            if (other_s := other.get_wait_s(tokens, now)) > wait_s:
                wait_s, unit, budget, needed = other_s, other_unit, other, tokens
        if wait_s and budget is not None and unit is not None:
            raise _make_refusal(budget, unit, wait_s, now, needed_tokens=needed)


class Accounts:
    """The accounts of all keys.

    Args:
        clock: Seconds since the epoch; it never goes back.

    Attributes:
        clock: The clock of all budgets.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._accounts: dict[str, Account] = {}
        self._configured: dict[str, ApiKey] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def get(self, key: ApiKey | None) -> Account:
        """Return the account of a key, with its present limits."""
        name = ANONYMOUS if key is None else key.id
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(name, self.clock)
        if key is not None and self._configured.get(name) is not key:
            self._configured[name] = key
            account.configure(key)
        return account

    def take_changes(self) -> list[StoredBudget]:
        """Return the budgets of the keys that used something since the last time."""
        changed = [account for account in self if account.is_changed]
        for account in changed:
            account.is_changed = False
        return self._export(changed)

    def export(self) -> list[StoredBudget]:
        """Return the budgets of all keys."""
        return self._export(self)

    def restore(self, rows: Iterable[StoredBudget], keys: Iterable[ApiKey]) -> None:
        """Continue with stored budgets of the keys that there are."""
        by_id, now = {key.id: key for key in keys}, self.clock()
        for row in rows:
            if (key := by_id.get(row.key_id)) is not None:
                budget = self.get(key).get_budgets().get(row.name)
                if budget is not None:
                    budget.restore(row.state, now)

    def forget(self, keys: Iterable[ApiKey]) -> list[str]:
        """Drop the accounts of keys that are not among these, and return their names."""
        known = {key.id for key in keys} | {ANONYMOUS}
        unknown = [
            one.name
            for one in self
            if one.name not in known and not one.running and not one.batch_lines
        ]
        for name in unknown:
            del self._accounts[name], self._configured[name]
        return unknown

    def _export(self, accounts: Iterable[Account]) -> list[StoredBudget]:
        now = self.clock()
        return [
            StoredBudget(account.name, name, budget.get_state(now))
            for account in accounts
            for name, budget in account.get_budgets().items()
        ]


def _adapt_budget(limit: Limit, earlier: Budget | None, now: float) -> Budget:
    if earlier is None:
        return make_budget(limit, now)
    if earlier.amount != limit.amount:
        earlier.change_amount(limit.amount, now)
    return earlier


def _has_same_unit(limit: Limit | None, other: Limit | None) -> bool:
    return limit is not None and other is not None and limit.unit == other.unit


def _make_refusal(
    budget: Budget, unit: LimitUnit, wait_s: float, now: float, *, needed_tokens: int | None
) -> RequestError:
    """Return the error for a budget that does not allow a call, of requests or of tokens."""
    limit = f"{budget.amount}/{unit} {'requests' if needed_tokens is None else 'tokens'}"
    what = "quota" if budget.is_quota else "limit"
    message = f"This key has reached its {what} of {limit}."
    if needed_tokens is not None and (remaining := budget.get_level(now)[0]):
        message = (
            f"This call may use {needed_tokens} tokens, and {remaining} are left of the {what} of "
            f"{limit} of this key. A smaller max_tokens needs fewer."
        )
    if not budget.is_quota:
        message += f" The same call is allowed in {wait_s:.1f} s."
        return RequestError(429, "rate_limit_exceeded", message, retry_after_s=wait_s)
    when = "at the start of the next month" if unit == "mo" else "at midnight"
    message += f" The quota renews {when} (UTC)."
    return RequestError(
        429, "insufficient_quota", message, retry_after_s=wait_s, should_retry=False
    )
