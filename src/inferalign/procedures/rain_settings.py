"""The constants of RAIN (arXiv 2309.07124) in two named settings. Imports nothing heavy: flags are made from it.

`PAPER` holds the constants and quirks of the published code for the HH task; `DEFAULT` is what every headline uses.
Each difference between the two, and between either and the paper's text, has a line in docs/rain-deviations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from inferalign.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class RainSettings:
    """One way of searching. An inner iteration evaluates one leaf."""

    max_iterations: int = 50
    """Inner iterations before the first commit; visits that a new root already has count towards it."""
    extra_iterations: int = 15
    """Iterations that are available before every later commit, whatever the new root already has."""
    min_visits: int = 6
    """Commit early only when the best child has more own visits than this ..."""
    stop_value: float = 0.5
    """... and a mean value above this, on the scale [-1, 1]."""
    budget_iterations: int | None = None
    """Inner iterations for the whole answer; when they are used up, the rest is drawn without search."""
    budget_tokens: int | None = None
    """Tokens asked for the whole answer by all roles, counted as docs/rain-running.md says; then as above."""
    budget_seconds: float | None = None
    """Seconds of search for the whole answer; then as above. Answers under it cannot be made again exactly."""
    form: Literal["vote", "margin"] = "margin"
    """How self-evaluation becomes a value: votes in {-1, 0, 1} as published, or the probability margin."""
    horizon: Literal["clause", "answer"] = "clause"
    """How far an answer is continued before it is judged: to the end of a clause, as published, or to its own end."""
    set_lengths: tuple[int, ...] = (1, 2, 4, 10)
    """Tokens in a set, by depth from the first root; the last one repeats."""
    candidates: int = 10
    """Children an expansion proposes: one greedy and the rest sampled, or the most probable tokens for sets of one."""
    candidate_top_k: int = 15
    """Candidates are drawn from this many most probable tokens at each position."""
    exploration: float = 2.0
    """PUCT's c, for values mapped to [0, 1]."""
    root_uniform: float = 0.25
    """Share of the uniform distribution in the priors of the root's children."""
    sibling_credit: float = 0.2
    """Weight, times the cosine, with which a value also counts for a similar sibling."""
    sibling_threshold: float = 0.95
    """Cosine of mean embeddings from which two siblings are similar."""
    widen_limit: int = 20
    """A node with this many children is not widened."""
    widen_variance: float = 0.03
    """Widen only while the norm of the children's embedding variance is below this, times the set length."""
    widen_draws: int = 8
    """Draws a widening may spend to find a candidate that is new; 0 is the published rule (greedy and one sample)."""
    cut_at_end: bool = True
    """Cut a set where the answer ends, and make it a terminal leaf; false keeps the tokens after it, as published."""
    min_ratio: float = 0.01
    """Drop single-token candidates less probable than this share of the most probable; 0 keeps all."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                most = f" and at most {high}" if isfinite(high) else ""
                raise InputError(f"{name} is {getattr(self, name)}: give at least {low}{most}, such as {name} = {low}")
        for name in ("budget_iterations", "budget_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise InputError(f"{name} is {limit}: give at least 1, or leave it out for no bound")
        if self.budget_seconds is not None and not 0.0 < self.budget_seconds < float("inf"):
            raise InputError(f"budget_seconds is {self.budget_seconds}: give more than 0, or leave it out for no bound")
        if not self.set_lengths or min(self.set_lengths) < 1:
            raise InputError(f"set_lengths is {self.set_lengths}; give one or more positive lengths, such as 1 2 4 10")
        if not -1.0 <= self.stop_value <= 1.0:
            raise InputError(f"stop_value is {self.stop_value}; values lie in [-1, 1]: give --stop-value 0.5")

    def set_length(self, depth: int) -> int:
        """Tokens in each child of a node at `depth` (the first root has depth 0)."""
        return self.set_lengths[min(depth, len(self.set_lengths) - 1)]


_RANGES: dict[str, tuple[float, float]] = {
    "max_iterations": (2, inf),
    "extra_iterations": (1, inf),
    "min_visits": (0, inf),
    "candidates": (2, inf),
    "candidate_top_k": (1, inf),
    "exploration": (0, inf),
    "root_uniform": (0, 1),
    "sibling_credit": (0, inf),
    "sibling_threshold": (-1, 1),
    "widen_limit": (0, inf),
    "widen_draws": (0, inf),
    "min_ratio": (0, 1),
}
"""The least and the most of each number. Without bounds a search could not run, or would say so too late."""

DEFAULT = RainSettings()
PAPER = RainSettings(stop_value=0.8, form="vote", widen_draws=0, cut_at_end=False, min_ratio=0.0)
SETTINGS: dict[str, RainSettings] = {"default": DEFAULT, "paper": PAPER}
