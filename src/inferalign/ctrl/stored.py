"""The anchors' own rollouts as training data: what offline regression fits, with the Z that their levels have.

The optimum of E[R] - beta KL is pi = p e^(R/beta) / Z(x), so that on every response y to x

    beta log(pi(y|x) / p(y|x)) = R(x, y) - beta log Z(x),    Z(x) = E_p e^(R/beta),

and squared error of the two sides, on any responses, has its only minimum of 0 there (QRPO, arXiv 2507.08068). QRPO
takes Z from the law of a continuous calibrated reward, the integral of e^(Phi(u)/beta) over [0, 1]. That is another
number when responses tie: e^Phi in the middle of a tie is not its mean over the tie, so that no law fits the targets
and the fit is bent, most where the log ratio is largest (our derivation). Here Z(x) is the mean of e^(R/beta) over the
prompt's K rollouts, each as a fresh draw among the K - 1 others: the law of E_p whatever ties, but for one anchor. The
mean over their own R is another number. Each is an anchor, so that it ties with itself and none reaches the top, where
a steep transform has its weight: such a Z is 30 % too small for exp:10 with 16 anchors at .5 nats, and 6 % with 100.
Numpy alone; no model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive
from inferalign.core.types import StopReason, TokenIds
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.reward import CalibratedReward
from inferalign.ctrl.rollout_records import Rollouts, read_rollouts

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StoredRollouts:
    """Token ids and rewards of P prompts' rollouts, K each; read by `StoredRollouts.read`."""

    prompt_ids: tuple[str, ...]
    token_ids: NDArray[np.int32]
    """All rollouts' tokens, one after the other, in the order of prompts and draws; without ends."""
    starts: NDArray[np.int64]
    """[P K + 1]: where each rollout begins in `token_ids`."""
    ended: NDArray[np.bool_]
    """[P, K]: whether the rollout ended by itself, and was not cut at the length limit."""
    rewards: Floats
    """[P, K]: R of each rollout; NaN where the judge failed."""
    fresh: Floats
    """[P, K]: R that each would have as a fresh draw among the others; what Z is the mean over."""

    @classmethod
    def read(cls, run: Path | str, anchors: AnchorSet, reward: CalibratedReward) -> StoredRollouts:
        """The rollouts in the run folder that `calibrate` wrote, one record in memory at a time.

        reward: made from the same anchors. Raises `InputError` when the records are not those of the anchors, and as
        `CalibratedReward.require` does; `RunError` as `read_rollouts` does.
        """
        place = {name: row for row, name in enumerate(anchors.prompt_ids)}
        tokens: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)] * len(place)
        ended = np.zeros(anchors.scores.shape, dtype=np.bool_)
        seen: set[str] = set()
        for rollouts in read_rollouts(run):
            row = place.get(rollouts.prompt_id)
            if row is None or not _same(rollouts, anchors, row):
                raise InputError(
                    f"{run} holds rollouts of prompt {rollouts.prompt_id!r} that are not those of its anchors: name "
                    "the run folder that `inferalign calibrate` wrote, whole, or repeat that command if it was stopped"
                )
            tokens[row] = np.array([token for ids in rollouts.token_ids for token in ids], dtype=np.int32)
            ended[row] = [stop is StopReason.END for stop in rollouts.stops]
            seen.add(rollouts.prompt_id)
        if missing := [name for name in place if name not in seen]:
            raise InputError(
                f"{run} has anchors and no rollouts of {len(missing)} prompts, {missing[0]!r} for one: offline "
                "regression trains on them, so copy the run folder with its records"
            )
        return cls(
            prompt_ids=anchors.prompt_ids,
            token_ids=np.concatenate(tokens),
            starts=np.append(0, np.cumsum(anchors.lengths, dtype=np.int64)),
            ended=ended,
            rewards=reward.rewards(anchors.prompt_ids, anchors.scores),
            fresh=reward.as_fresh(anchors.prompt_ids, anchors.scores),
        )

    @property
    def k(self) -> int:
        return int(self.rewards.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of the responses; their scores have the anchors' digest."""
        parts = (self.token_ids, self.starts, self.ended)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def response(self, row: int, draw: int) -> TokenIds:
        """The tokens of one rollout, without its end."""
        at = row * self.k + draw
        return tuple(map(int, self.token_ids[self.starts[at] : self.starts[at + 1]]))

    def targets(self, beta: float) -> Floats:
        """R - beta log Z(x), [P, K]: what beta log(pi / p) should be; NaN where the judge failed."""
        a = self.fresh / beta
        top = np.nanmax(a, axis=1, keepdims=True)
        log_z = top + np.log(np.nanmean(np.exp(a - top), axis=1, keepdims=True))
        found: Floats = self.rewards - beta * log_z
        return found

    def chosen(self, row: int, count: int, seed: int) -> NDArray[np.int64]:
        """`count` draws of a prompt in a random order that the seed decides; each again only when all were taken."""
        usable = np.flatnonzero(~np.isnan(self.rewards[row]))
        stream = np.random.Generator(np.random.Philox(key=derive(seed, "stored rollouts", self.prompt_ids[row])))
        return np.resize(stream.permutation(usable), count)


def _same(rollouts: Rollouts, anchors: AnchorSet, row: int) -> bool:
    """Whether a record is what a row of the anchors was made from."""
    scores = anchors.scores.row(row)
    return (
        np.array_equal(rollouts.scores.values, scores.values)
        and np.array_equal(rollouts.scores.blame, scores.blame)
        and [len(ids) for ids in rollouts.token_ids] == anchors.lengths[row].tolist()
    )
