"""A policy with text that cannot be judged: it hides there when blame is ignored, and leaves when it is not.

Two tokens of eight kinds each; every pair is a response, and the policy is a table of softmaxes. The best answers begin
with the last token, and so does the text that cannot be judged. The gradient is exact, of what TRL (1.16) computes from
groups of 8: a row whose reward is None has advantage 0, with no KL term, and is left out of its siblings' baseline.
"""

from __future__ import annotations

import numpy as np
import pytest

from inferalign.ctrl.reward import CalibratedReward, HeldAnchors
from inferalign.ctrl.scored import JUDGE, RESPONSE, SCORED, Scored
from inferalign.theory.transforms import Exponential, Identity, Transform

KINDS, GROUP, STEPS, RATE, BETA, HIDDEN = 8, 8, 3000, 1.0, 0.25, 0.04


def reference() -> np.ndarray:
    """[8, 8], uniform but for the last of the pairs, which has `HIDDEN`."""
    second = np.full((KINDS, KINDS), 1 / KINDS)
    second[-1] = (1 - KINDS * HIDDEN) / (KINDS - 1)
    second[-1, -1] = KINDS * HIDDEN
    return second / KINDS


def scores(p: np.ndarray) -> tuple[Scored, HeldAnchors]:
    """Every pair's score, which grows with the first token, and anchors drawn from the reference."""
    draw = np.random.default_rng(2)
    values = np.linspace(-3, 3, KINDS)[:, None] + draw.normal(size=(KINDS, KINDS))
    blame = np.full((KINDS, KINDS), SCORED, dtype=np.uint8)
    blame[-1, -1], values[-1, -1] = RESPONSE, 0.0
    pairs = draw.choice(KINDS**2, size=4000, p=p.ravel())
    anchors = Scored(values.ravel()[pairs][None], blame.ravel()[pairs][None])
    return Scored(values.reshape(1, -1), blame.reshape(1, -1)), HeldAnchors(("p",), anchors)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def trained(rewards: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The policy after `STEPS` steps on E[R] - beta KL, rows without reward as TRL treats them."""
    first, second = np.log(p.sum(axis=1)), np.log(p / p.sum(axis=1, keepdims=True))
    kept = ~np.isnan(rewards)
    for _ in range(STEPS):
        a, b = softmax(first), softmax(second)
        q = a[:, None] * b
        value = rewards - BETA * np.log(q / p)
        baseline = np.sum(value[kept] * q[kept]) / q[kept].sum()
        # without one sibling that has a reward there is no baseline, and no advantage
        alone = (1 - q[kept].sum()) ** (GROUP - 1)
        push = q * np.where(kept, (1 - alone) * (value - baseline), 0.0)
        first += RATE * (push.sum(axis=1) - a * push.sum())
        second += RATE * (push - b * push.sum(axis=1, keepdims=True))
    return softmax(first)[:, None] * softmax(second)


@pytest.mark.parametrize("transform", [Identity(), Exponential(5.0)])
def test_text_that_cannot_be_judged_is_a_place_to_hide_only_when_blame_is_ignored(transform: Transform) -> None:
    p = reference()
    scored, anchors = scores(p)
    reward = CalibratedReward(anchors, transform)
    blamed = reward.rewards(("p",), scored).reshape(KINDS, KINDS)
    excused = Scored(scored.values, np.where(scored.blame == RESPONSE, JUDGE, scored.blame).astype(np.uint8))
    ignored = reward.rewards(("p",), excused).reshape(KINDS, KINDS)
    optimum = p * np.exp(blamed / BETA)
    best = (optimum / optimum.sum())[-1, -1]
    hides, leaves = trained(ignored, p)[-1, -1], trained(blamed, p)[-1, -1]
    assert p[-1, -1] == pytest.approx(HIDDEN)
    # identity: .33 % is optimal, .34 % with blame, 6.8 % without; exp:5: .94 %, .94 %, 6.6 %
    assert best < HIDDEN / 4
    assert leaves == pytest.approx(best, rel=0.05)
    assert hides > 1.5 * HIDDEN
