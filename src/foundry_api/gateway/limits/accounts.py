"""Accounts: what each key has used, and what it may still use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.limits.budgets import make_budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from foundry_api.gateway.keys.types import ApiKey, Limit
    from foundry_api.gateway.limits.budgets import Budget, BudgetState

__all__ = ["ANONYMOUS", "Account", "Accounts"]

# The account of all calls, if the gateway serves without keys.
ANONYMOUS = "anonymous"


class Account:
    """What a key has used.

    Attributes:
        name: The id of the key.
        weight: Its share of a busy service.
        running: Its calls that wait or run.
        requests: The budget of requests; None without a limit.
        tokens: The budgets of tokens, by the text of their limit.
    """

    def __init__(
        self,
        name: str,
        *,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.weight = 1.0
        self.running = 0
        self.requests: Budget | None = None
        self.tokens: dict[str, Budget] = {}
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._parallel: int | None = None
        self._rate: Limit | None = None

    def configure(self, key: ApiKey) -> None:
        """Take the limits of a key; budgets whose limit is unchanged keep their state."""
        self.weight, self._parallel = key.weight, key.parallel
        if key.rate != self._rate:
            self._rate = key.rate
            self.requests = None if key.rate is None else self._make_budget(key.rate)
        self.tokens = {
            str(limit): self.tokens.get(str(limit)) or self._make_budget(limit)
            for limit in key.tokens
        }

    def check_parallel(self) -> None:
        """Refuse a call if as many run as may.

        Raises:
            RequestError: 429.
        """
        if self._parallel is not None and self.running >= self._parallel:
            raise RequestError(
                429,
                "rate_limit_exceeded",
                f"This key may run {self._parallel} calls at the same time.",
                retry_after_s=1.0,
            )

    def check_budgets(self, tokens: int) -> None:
        """Refuse a call that the budgets do not allow now.

        Raises:
            RequestError: 429, with the time at which the same call is allowed.
        """
        if self.requests is not None and (wait_s := self.requests.get_wait_s(1)):
            raise _make_refusal(f"{self._rate} requests", self.requests, wait_s)
        for limit, budget in self.tokens.items():
            if wait_s := budget.get_wait_s(tokens):
                raise _make_refusal(f"{limit} tokens", budget, wait_s)

    def start(self, tokens: int) -> None:
        """Count a call that starts, and reserve the tokens that it may use."""
        self.running += 1
        if self.requests is not None:
            self.requests.use(1)
        for budget in self.tokens.values():
            budget.use(_get_reservation(budget, tokens))

    def end(self, reserved: int, used: int) -> None:
        """Count a call that ended: use the tokens that it used instead of the reserved ones."""
        self.running -= 1
        for budget in self.tokens.values():
            budget.use(used - _get_reservation(budget, reserved))

    def _make_budget(self, limit: Limit) -> Budget:
        return make_budget(limit, monotonic=self._monotonic, wall_clock=self._wall_clock)


class Accounts:
    """The accounts of all keys."""

    def __init__(self, *, monotonic: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._accounts: dict[str, Account] = {}
        self._configured: dict[str, ApiKey] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def get(self, key: ApiKey | None) -> Account:
        """Return the account of a key, with its present limits."""
        name = ANONYMOUS if key is None else key.id
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(
                name, monotonic=self._monotonic, wall_clock=self._wall_clock
            )
        if key is not None and self._configured.get(name) is not key:
            self._configured[name] = key
            account.configure(key)
        return account

    def export(self) -> list[tuple[str, str, BudgetState]]:
        """Return the state of all budgets: the key's id, the limit, and what is used."""
        rows: list[tuple[str, str, BudgetState]] = []
        for account in self:
            if account.requests is not None:
                rows.append((account.name, "requests", account.requests.state))
            rows += [
                (account.name, limit, budget.state) for limit, budget in account.tokens.items()
            ]
        return rows

    def restore(self, rows: Iterable[tuple[str, str, BudgetState]], keys: Iterable[ApiKey]) -> None:
        """Continue with stored states of the keys that there are."""
        by_id = {key.id: key for key in keys}
        for name, limit, state in rows:
            if name not in by_id:
                continue
            account = self.get(by_id[name])
            budget = account.requests if limit == "requests" else account.tokens.get(limit)
            if budget is not None:
                budget.restore(state)


def _get_reservation(budget: Budget, tokens: int) -> int:
    # Never more than a period has: a key with a small limit could make no call at all.
    return min(tokens, budget.amount)


def _make_refusal(limit: str, budget: Budget, wait_s: float) -> RequestError:
    if budget.is_quota:
        return RequestError(
            429,
            "insufficient_quota",
            f"This key has used its quota of {limit}.",
            retry_after_s=wait_s,
            should_retry=False,
        )
    return RequestError(
        429,
        "rate_limit_exceeded",
        f"This key has reached its limit of {limit}. It may call again in {wait_s:.1f} s.",
        retry_after_s=wait_s,
    )
