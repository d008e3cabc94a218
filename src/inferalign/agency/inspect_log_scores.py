"""Which numbers of a foreign Inspect log are its scores, and on what scale.

Inspect's scores are numbers, truth values, the letters C, P, I and N (1, 0.5, 0 and 0, as its own metrics have them),
or several of these under keys. Anything else is no number and is refused, where Inspect's metrics would take it for 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import InputError
from inferalign.core.lookup import did_you_mean
from inferalign.scorers.verdicts import TOP

if TYPE_CHECKING:
    from inspect_ai.log import EvalSampleSummary

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One number a sample."""

    scorer: str
    key: str | None
    """Of a scorer whose values are several."""
    low: float
    """The worst score there can be; `high` the best. The best may be the smaller number."""
    high: float

    @property
    def name(self) -> str:
        return self.scorer if self.key is None else f"{self.scorer}.{self.key}"

    def value(self, stored: Any) -> float | None:
        """The number in a stored score; None or NaN where it is unscored. Raises `InputError` for what is no number."""
        if self.key is not None:
            stored = stored.get(self.key) if isinstance(stored, Mapping) else stored
        return None if stored is None else _number(stored, self.name)

    def on_our_scale(self, value: float) -> float:
        """0 to 10. Raises `InputError` for a value outside the scale."""
        if not min(self.low, self.high) <= value <= max(self.low, self.high):
            raise InputError(f"{self.name}: the score {value:g} is not on the scale {self.low:g} to {self.high:g}")
        return TOP * (value - self.low) / (self.high - self.low)


def find_column(
    summaries: Iterable[EvalSampleSummary], scorer: str | None, scale: tuple[float, float] | None, *, where: str
) -> Column:
    """The scores that are meant, with their scale. Raises `InputError` as `inspect_logs.import_log` says."""
    values: dict[tuple[str, str | None], list[Any]] = {}
    for summary in summaries:
        for place, value in _places(summary.scores or {}):
            values.setdefault(place, []).append(value)
    named = {name if key is None else f"{name}.{key}": (name, key) for name, key in values}
    if not named:
        raise InputError(f"{where} has no scores: score it with inspect score, or name another log")
    known = ", ".join(sorted(named))
    if scorer is None and len(named) > 1:
        raise InputError(f"{where} has the scores of several scorers ({known}): name the one to take with --scorer")
    chosen = next(iter(named)) if scorer is None else scorer
    if chosen not in named:
        raise InputError(f"{where} has no scorer {chosen!r}.{did_you_mean(chosen, named)} There are: {known}.")
    numbers = [_number(value, chosen) for value in values[named[chosen]] if value is not None]
    low, high = _scale(scale, [number for number in numbers if not math.isnan(number)], chosen, where)
    return Column(scorer=named[chosen][0], key=named[chosen][1], low=low, high=high)


def _places(scores: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str | None], Any]]:
    for name, score in scores.items():
        if isinstance(score.value, Mapping):
            yield from (((name, key), value) for key, value in score.value.items())
        else:
            yield (name, None), score.value


def _number(value: Any, name: str) -> float:
    if isinstance(value, str) and value in _LETTERS:
        return _LETTERS[value]
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: the score {str(value)[:40]!r} is no number: name a scorer whose scores are"
        ) from error


def _scale(given: tuple[float, float] | None, numbers: list[float], name: str, where: str) -> tuple[float, float]:
    if given is not None:
        if given[0] == given[1] or not all(map(math.isfinite, given)):
            raise InputError(
                f"a scale from {given[0]:g} to {given[1]:g}: give the worst and the best score, such as 0 10"
            )
        return given
    if numbers and not 0 <= min(numbers) <= max(numbers) <= 1:
        raise InputError(
            f"{where}: the scores of {name} run from {min(numbers):g} to {max(numbers):g}: say their scale, the worst "
            "and the best score there can be"
        )
    return 0.0, 1.0
