"""Readers without understanding: how well do they tell a bad reply from a good one by its words?

Each is a bag of words under logistic regression. Beside them stands the reader who knows how hard every key is and
nothing else: what a prompt gives away cannot be less. Accuracies are balanced (the mean over the two classes), so that
guessing gets a half whatever the base rate.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, wilson
from inferalign.sandbox import world
from inferalign.sandbox.grammar import render
from inferalign.sandbox.situations import Request
from inferalign.sandbox.situations.situation import WORLD_VERSION, Situation

PENALTY = 1e-4
"""On the squared weights of a bag of words, beside the mean loss of a case."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reply, and whether it has the main fault of its situation."""

    request: Request
    reply: str
    bad: bool


View = Callable[[Case], set[str]]
Reader = Callable[[Sequence[Case]], list[bool]]
"""Says of each case whether its reply is bad."""


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def _of_reply(case: Case) -> set[str]:
    return set(_words(case.reply))


def _of_prompt(case: Case) -> set[str]:
    return {f"prompt:{word}" for word in _words(case.request.text)}


def _of_overlap(case: Case) -> set[str]:
    shared = set(_words(case.reply)) & set(_words(case.request.text))
    return {f"shared:{word}" for word in shared} | {f"shared:{len(shared)} words"}


VIEWS: Mapping[str, View] = {
    "reply": _of_reply,
    "prompt": _of_prompt,
    "both": lambda case: _of_reply(case) | _of_prompt(case),
    "overlap": lambda case: _of_reply(case) | _of_prompt(case) | _of_overlap(case),
}
"""What a bag of words looks at. The last one compares prompt and reply, word by word; it is no longer a mere bag."""
BASE = "base"
"""The reader that knows how hard each key is, and nothing else."""


def cases(situation: Situation, split: world.Split, n: int, seed: int) -> list[Case]:
    """`n` of the world's own replies in a split; bad is what was planned, without asking the oracle."""
    rng = random.Random(derive(seed, "audit", WORLD_VERSION, situation.name, split))
    made = []
    for _ in range(n):
        request = world.draw_request(situation, split, rng)
        plan = situation.draw_plan(request, rng)
        made.append(Case(request=request, reply=render(situation.draw_reply(request, rng, plan)), bad=plan == "bad"))
    return made


def bag_of_words(view: View, learned_on: Sequence[Case]) -> Reader:
    """Logistic regression on which words occur, both classes weighing the same."""
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*map(view, learned_on))))}

    def features(seen: Sequence[Case]) -> csr_array:
        rows = [[vocabulary[word] for word in view(case) if word in vocabulary] for case in seen]
        ends = np.cumsum([0, *map(len, rows)])
        columns = np.array([column for row in rows for column in row], dtype=np.int64)
        return csr_array((np.ones(len(columns)), columns, ends), shape=(len(rows), len(vocabulary)))

    bad = np.array([case.bad for case in learned_on], dtype=np.float64)
    beta = _logistic(features(learned_on), bad)
    return lambda seen: list(map(bool, features(seen) @ beta[:-1] + beta[-1] > 0))


def _logistic(x: csr_array, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights `[K + 1]`, intercept last, of a class-balanced logistic regression of y `[N]` on x `[N, K]`."""
    weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean())) / len(y)

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = x @ beta[:-1] + beta[-1]
        error = weight * (0.5 * (1 + np.tanh(logits / 2)) - y)
        value = (weight * (np.logaddexp(0, logits) - y * logits)).sum() + PENALTY * (beta[:-1] ** 2).sum()
        return value, np.append(x.T @ error + 2 * PENALTY * beta[:-1], error.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights: NDArray[np.float64] = found.x
    return weights


def base_rates(situation: Situation, learned_on: Sequence[Case]) -> Reader:
    """Calls a reply bad if its key is harder than the mean: the best that the known difficulty alone can do."""
    mean = sum(situation.bad_rate(case.request) for case in learned_on) / len(learned_on)
    return lambda seen: [situation.bad_rate(case.request) > mean for case in seen]


def readers(situation: Situation, learned_on: Sequence[Case]) -> dict[str, Reader]:
    """The readers without understanding, by name. Raises `InputError` unless both classes occur."""
    if len({case.bad for case in learned_on}) < 2:
        raise InputError(f"{len(learned_on)} {situation.name} replies hold one class only: ask for more (--n)")
    bags = {name: bag_of_words(view, learned_on) for name, view in VIEWS.items()}
    return bags | {BASE: base_rates(situation, learned_on)}


def balanced_accuracy(seen: Sequence[Case], said: Sequence[bool]) -> Estimate:
    """The mean of sensitivity and specificity, n cases in all; empty unless both classes occur.

    The interval joins the two Wilson intervals by the recovered variances (Zou and Donner 2008, Stat. Med.
    27:1693-1702): the distances of the joint bounds are the root of the summed squares of the single ones.
    """
    shares = []
    for bad in (True, False):
        right = [answer == bad for case, answer in zip(seen, said, strict=True) if case.bad == bad]
        if not right:
            return Estimate.empty()
        shares.append(wilson(sum(right), len(right)))
    means, lows, highs = (np.array([getattr(share, name) for share in shares]) for name in ("mean", "low", "high"))
    return Estimate(
        mean=float(means.mean()),
        low=float(means.mean() - np.hypot(*(means - lows)) / 2),
        high=float(means.mean() + np.hypot(*(highs - means)) / 2),
        n=len(seen),
    )
