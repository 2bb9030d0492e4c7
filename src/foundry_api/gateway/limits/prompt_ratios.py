"""What the prompts of broken calls cost: the service counts only those of answers with an end."""

from __future__ import annotations

__all__ = ["PromptRatios"]

# Of the last call in the average. One odd prompt must not decide about those of other keys.
SHARE = 0.1
# The estimate is four bytes to a token. A token has one byte to 16, whatever a service counts.
MIN_RATIO, MAX_RATIO = 0.25, 4.0
# Only names of models that have answered are here, in as many spellings as clients use.
MAX_MODELS = 256


class PromptRatios:
    """How many tokens the prompts of each model had, for each token of their estimates."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def learn(self, model: str, *, estimated: int, counted: int) -> None:
        """Learn from a prompt that the service has counted."""
        if not estimated or not counted:
            return
        seen = min(max(counted / estimated, MIN_RATIO), MAX_RATIO)
        before = self._ratios.get(model)
        if before is None and len(self._ratios) >= MAX_MODELS:
            self._ratios.clear()
        self._ratios[model] = seen if before is None else before + SHARE * (seen - before)

    def correct(self, model: str, estimated: int) -> int:
        """Return how many tokens a prompt is likely to have; the estimate of an unknown model."""
        return round(estimated * self._ratios.get(model, 1.0))
