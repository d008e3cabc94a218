"""What a calibrated reward saw, call by call, and the alarms that end a training before it is wasted.

Three numbers tell most of what goes wrong. The mean calibrated reward is 1/2 over fresh reference draws: elsewhere the
anchors belong to another model, template or temperature. The share above the best anchor is the share that the reward
can no longer tell apart, and near it the KL approaches its limit, the harmonic number H_K. The share of responses that
cannot be judged should fall as a policy is trained, since they get the worst reward: where it grows, the policy found
text to hide in.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from inferalign.core.errors import ScoringError

WINDOW = 50
"""Calls that an alarm looks back on."""
CLEAR = 4.0
"""Standard errors by which a share must exceed a bound before anything is said."""
WARN_EXCESS = 0.02
"""A warning: the share that cannot be judged is so far above that of the same prompts' anchors."""
STOP_EXCESS = 0.25
"""An error: a quarter of what is drawn went where nothing can be judged."""
WARN_JUDGE = 0.1
"""A warning: the judge failed on this share."""
STOP_JUDGE = 0.5
"""An error: what is learnt hangs on which half the judge failed on."""
WARN_ABOVE = 0.5
"""A warning: so many are above the best anchor of their prompt, where the KL nears its limit."""
FEWEST_TEXTS = 64
"""The fewest responses that an alarm is raised on."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Counts over some responses; they add up."""

    scored: int = 0
    response: int = 0
    """Not scored, and the response is to blame."""
    judge: int = 0
    """Not scored, and the judge is to blame; in none of what follows."""
    rank_sum: float = 0.0
    """Sum of calibrated rewards."""
    above: int = 0
    """Above the best anchor of their prompt."""
    tied: int = 0
    """Tied with an anchor of their prompt."""
    unjudgeable_anchors: float = 0.0
    """How many responses could not be judged if they were reference draws: the sum of their prompts' shares."""

    def __add__(self, other: Seen) -> Seen:
        return Seen(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def calibrated(self) -> int:
        """Responses that have a calibrated reward."""
        return self.scored + self.response

    @property
    def mean_rank(self) -> float:
        """The mean calibrated reward; 1/2 over reference draws. Raises `ScoringError` when there is none."""
        if not self.calibrated:
            raise ScoringError(f"no calibrated reward to take the mean of: the judge failed on all {self.judge}")
        return self.rank_sum / self.calibrated

    def metrics(self) -> dict[str, float]:
        """Shares and the mean by the names they are logged under; what needs a calibrated reward only where one is."""
        texts = self.calibrated + self.judge
        found = {"unscored/judge": self.judge / texts} if texts else {}
        if self.calibrated:
            n = self.calibrated
            found |= {
                "calibrated/mean": self.mean_rank,
                "calibrated/above_best_anchor": self.above / n,
                "calibrated/tied": self.tied / n,
                "unscored/response": self.response / n,
                "unscored/response_in_anchors": self.unjudgeable_anchors / n,
            }
        return found


def clearly_above(found: float, texts: float, bound: float) -> bool:
    """Whether `found` of so many are a share above the bound, by `CLEAR` standard errors of a share at the bound."""
    return found - bound * texts > CLEAR * math.sqrt(texts * bound * (1 - bound))


class Watch:
    """What was seen over the last `WINDOW` calls, and the alarms."""

    def __init__(self, anchors: Callable[[str], int]) -> None:
        """anchors: of a prompt by its id, how many its share of unjudgeable text rests on."""
        self._anchors = anchors
        self._calls: deque[Seen] = deque(maxlen=WINDOW)
        self._prompts: deque[Counter[str]] = deque(maxlen=WINDOW)
        self._warned: set[str] = set()

    @property
    def window(self) -> Seen:
        return sum(self._calls, Seen())

    def add(self, seen: Seen, prompt_ids: Sequence[str]) -> None:
        """Take one call's counts, of responses to these prompts.

        Warns once (`UserWarning`) for each of: responses that cannot be judged, more often than the anchors by
        `WARN_EXCESS`; a judge that fails more often than `WARN_JUDGE`; responses above every anchor, more often than
        `WARN_ABOVE`. Raises `ScoringError` beyond `STOP_EXCESS` and `STOP_JUDGE`. Each needs `FEWEST_TEXTS` responses,
        and a share that is above its bound by `CLEAR` of the standard errors that it has where the truth is at the
        bound; in the first case these are of both the responses' and the anchors' counts.
        """
        self._calls.append(seen)
        self._prompts.append(Counter(prompt_ids))
        window = self.window
        self._alarm(
            "response",
            window.response,
            window.calibrated,
            window.unjudgeable_anchors,
            (WARN_EXCESS, STOP_EXCESS),
            "of the responses could not be judged, against {expected:.1%} of the anchors: the policy moves to text "
            "that the scorer cannot judge; look at some, and mend the scorer or raise beta",
            lambda bound: self._variance(window, bound),
        )
        self._alarm(
            "judge",
            window.judge,
            window.calibrated + window.judge,
            0.0,
            (WARN_JUDGE, STOP_JUDGE),
            "of the judge's verdicts failed and were left out: check the judge before you trust this training",
        )
        self._alarm(
            "above",
            window.above,
            window.calibrated,
            0.0,
            (WARN_ABOVE, 1.0),  # more than all are never above: no training is stopped for it
            "of the responses are above the best anchor of their prompt, where the reward tells none from another: "
            "draw more anchors (`inferalign calibrate --k`), or aim at a smaller --kl",
        )

    def _variance(self, window: Seen, excess: float) -> float:
        """Of the count of unjudgeable responses less the one that their prompts' anchors let expect.

        m responses to a prompt with K anchors give m r (1 - r) + m^2 / K s (1 - s), s the share among reference draws
        and r = s + excess that among responses. s is that of responses, less the excess, and anchors together: a few
        anchors of which none is unjudgeable do not say that none can be.
        """
        texts = window.calibrated
        asked: Counter[str] = sum(self._prompts, Counter())
        squares = sum(m * m / self._anchors(name) for name, m in asked.items())
        independent = asked.total() ** 2 / squares
        expected = window.unjudgeable_anchors / texts * independent
        s = (window.response - excess * texts + expected) / (texts + independent)
        s = min(max(s, 0.0), 1 - excess)
        r = s + excess
        return texts * r * (1 - r) + squares * s * (1 - s)

    def _alarm(
        self,
        what: str,
        found: int,
        texts: int,
        expected: float,
        bounds: tuple[float, float],
        words: str,
        variance: Callable[[float], float] | None = None,
    ) -> None:
        """variance: of `found` less `expected`, if the share is truly so far above; without one nothing is expected."""

        def beyond(bound: float) -> bool:
            if variance is None:
                return clearly_above(found, texts, bound)
            return found - expected - bound * texts > CLEAR * math.sqrt(variance(bound))

        if texts < FEWEST_TEXTS or not beyond(bounds[0]):
            return
        message = f"{found / texts:.1%} {words.format(expected=expected / texts)}"
        if beyond(bounds[1]):
            raise ScoringError(message)
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(message, stacklevel=3)
