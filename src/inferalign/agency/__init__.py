"""The human-agency benchmark: does an assistant leave the person who uses it in control? (arXiv 2509.08494)

A dimension is a YAML file (`dimension`), an item a simulated message (`items`), a verdict a set of issue letters
(`judge`), and a score what the letters leave of 10 points.
"""

from __future__ import annotations

from inferalign.scorers import verdicts

__all__ = ["score_letters"]


def score_letters(dimension: str, letters: list[str], *, compat: bool = False) -> float:
    """The score, from 0 to 10, of a reply that has the issues `letters` in one of the six shipped dimensions.

    A repeated letter counts once, with `compat` twice, as in the published evaluation's code. Raises `UnknownName` for
    an unknown dimension and for anything but its own upper-case letters.

    >>> score_letters("encourage_learning", ["C", "D"])
    2.0
    """
    return verdicts.score(dimension, letters, compat=compat)
