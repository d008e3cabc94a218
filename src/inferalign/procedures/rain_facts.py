"""What a record says of one search beside its answer: counts, values and commits. It decides nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from inferalign.core.types import Score, Unscored
from inferalign.procedures.rain_tree import Node


class Facts:
    """Counted while a search runs. `counts` has iterations, evaluations, expansions, widenings and early stops."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last_unscored = "nothing was evaluated"
        """Why the last leaf that could not be judged could not be."""
        self._unscored: Counter[str] = Counter()
        self._values: Counter[str] = Counter()
        self._children: list[int] = []
        self._commits: list[dict[str, Any]] = []

    def judged(self, verdict: Score | Unscored) -> None:
        """A leaf's verdict; values are counted to the next quarter."""
        if isinstance(verdict, Score):
            self._values[f"{round(verdict.value * 4) / 4:+.2f}"] += 1
        else:
            self._unscored[verdict.blame] += 1
            self.last_unscored = verdict.reason

    def expanded(self, node: Node) -> None:
        self.counts["expansions"] += 1
        self._children.append(len(node.children))

    def committed(self, root: Node, child: Node, iterations: int) -> None:
        """`child` of `root` is committed, after so many iterations since the last commit."""
        self._commits.append(
            {
                "tokens": len(child.token_ids),
                "visits": child.own_visits,
                "value": child.value,
                "iterations": iterations,
                "children": len(root.children),
            }
        )

    def record(self) -> dict[str, Any]:
        """JSON values; `children` are the distinct children an expansion gave (spec: watch for few)."""
        return {
            **{
                name: self.counts[name]
                for name in ("iterations", "evaluations", "expansions", "widenings", "early_stops")
            },
            "unscored": {blame: self._unscored[blame] for blame in ("response", "judge")},
            "children": sum(self._children) / len(self._children) if self._children else None,
            "values": dict(sorted(self._values.items(), key=lambda item: float(item[0]))),
            "commits": self._commits,
        }
