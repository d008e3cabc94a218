"""Does the installed TRL still compute the gradient that the theory needs? Measured on a policy that is enumerable.

The policy is a table over 57 responses (`tabular`), so the gradient of E[Phi(C)] - beta KL(pi || p) is a sum that
automatic differentiation gives exactly. TRL's is what one real step of `CtrlTrainer` does to the weights, with plain
gradient descent at learning rate 1 and no clipping of norms: log-probabilities, reward, baseline and loss are those of
any training, and TRL's own generation draws. (What `engine_draws` draws on CPUs has tests of its law.) A KL estimator
or a normalisation that changes in another version of TRL changes this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import logging
from trl import RLOOConfig

from inferalign.core.errors import RunError
from inferalign.core.seeds import derive
from inferalign.core.types import TokenIds
from inferalign.ctrl.data import Rendered, dataset
from inferalign.ctrl.rloo import quiet_trl, rloo_arguments
from inferalign.ctrl.settings import CtrlSettings
from inferalign.ctrl.tabular import END, LENGTH, SYMBOLS, TablePolicy, log_probabilities, responses, write_table
from inferalign.ctrl.trainer import CtrlTrainer
from inferalign.engines.weights import quiet
from inferalign.theory.transforms import Exponential

CASE = 20
"""The seed of the tables and rewards: of 40, that with the smallest sampling error. Its KL is 0.58."""
SAMPLES = 81920
GENERATIONS = 16
BETA = 0.25
LEAST_COSINE = 0.999
LARGEST_DEVIATION = 0.02
"""Of the norms' ratio from 1. With `SAMPLES` draws the ratio's standard error is 0.003, and 1 - cosine is 2e-5."""

Rewarded = Callable[[list[float]], list[float]]


@dataclass(frozen=True)
class Agreement:
    """A measured gradient against the exact one."""

    cosine: float
    ratio: float
    """Norm of the measured one over that of the exact one."""
    kl: float
    """Of the policy at hand, in nats: where the KL term is at work."""
    samples: int

    @property
    def holds(self) -> bool:
        return self.cosine >= LEAST_COSINE and abs(self.ratio - 1) <= LARGEST_DEVIATION

    def require(self) -> None:
        """Raises `RunError` when the gradient is another."""
        if not self.holds:
            raise RunError(
                f"the installed TRL computes another gradient than that of E[Phi] - beta KL (cosine {self.cosine:.4f}, "
                f"norm ratio {self.ratio:.3f}, {self.samples} samples): install trl>=1.16,<1.17 and repeat"
            )


@dataclass(frozen=True, eq=False)
class Case:
    """The policy, its reference and the reward that the check is made on."""

    policy: Tensor
    """Logits [V, V], float64."""
    reference: Tensor
    """Logits [V, V]."""
    rewards: Tensor
    """[57]: Phi of the calibrated reward of each of `responses`."""

    @classmethod
    def of(cls, seed: int = CASE) -> Case:
        """Random tables; the calibrated reward of each response is its exact mid-rank under the reference."""
        draw = torch.Generator().manual_seed(derive(seed, "gradient check") % 2**63)
        reference = torch.randn(SYMBOLS, SYMBOLS, generator=draw, dtype=torch.float64)
        policy = reference + 0.9 * torch.randn(SYMBOLS, SYMBOLS, generator=draw, dtype=torch.float64)
        scores = torch.randn(len(responses()), generator=draw, dtype=torch.float64)
        mass = log_probabilities(reference).exp()
        ascending = scores.argsort()
        middle = torch.empty_like(mass)
        middle[ascending] = mass[ascending].cumsum(0) - mass[ascending] / 2
        rewards = Exponential(5.0).normalised(middle.clamp(0, 1).numpy())
        return cls(policy, reference, torch.from_numpy(np.asarray(rewards)))

    def exact(self) -> tuple[Tensor, float]:
        """The gradient [V, V] of E[Phi] - beta KL with respect to the policy's logits, and the KL."""
        table = self.policy.clone().requires_grad_()
        logs = log_probabilities(table)
        kl = logs.exp() @ (logs - log_probabilities(self.reference))
        (logs.exp() @ self.rewards - BETA * kl).backward()
        assert table.grad is not None
        return table.grad, float(kl.detach())

    def reward_of(self) -> dict[TokenIds, float]:
        return dict(zip(responses(), self.rewards.tolist(), strict=True))


def gradient_agreement(
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    trainer: type[CtrlTrainer] = CtrlTrainer,
    changes: Mapping[str, Any] | None = None,
    rewarded: Rewarded = list,
) -> Agreement:
    """The gradient of one step of `trainer` on `samples` draws, against the exact one; 10 s of one core.

    changes: arguments of `RLOOConfig` that are set otherwise. rewarded: what is done to the rewards of all responses
    before TRL has them, those of a prompt beside each other. With both left alone it must hold.
    """
    case = Case.of()
    exact, kl = case.exact()
    measured = _measured(case, samples, seed, trainer, changes or {}, rewarded)
    cosine = float((measured * exact).sum() / (measured.norm() * exact.norm()))
    return Agreement(cosine=cosine, ratio=float(measured.norm() / exact.norm()), kl=kl, samples=samples)


def _measured(
    case: Case,
    samples: int,
    seed: int,
    trainer: type[CtrlTrainer],
    changes: Mapping[str, Any],
    rewarded: Rewarded,
) -> Tensor:
    settings = CtrlSettings(
        seed=seed, steps=2, warmup=0, batch_size=samples, generations=GENERATIONS, max_new_tokens=LENGTH
    )
    reward_of = case.reward_of()

    def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return rewarded([reward_of[tuple(ids)] for ids in completion_ids])

    with TemporaryDirectory() as folder, quiet(), quiet_trl(), _errors_only():
        place = write_table(Path(folder), case.reference.float())
        arguments = rloo_arguments(settings, place / "trl", steps=2, beta=BETA) | {"max_grad_norm": 0.0, **changes}
        made = trainer(
            TablePolicy.from_pretrained(place),
            reward,
            RLOOConfig(**arguments),
            dataset([Rendered("p", (END,))], [0] * 2 * settings.prompts_a_step),
            AutoTokenizer.from_pretrained(place),
            seed=seed,
        )
        made.skip(1)  # the policy is put elsewhere than its reference, which a first step would refuse
        with torch.no_grad():
            made.model.table.copy_(case.policy)
        before = made.model.table.detach().clone()
        made.optimizer = torch.optim.SGD(made.model.parameters(), lr=1.0)
        made.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(made.optimizer, factor=1.0)
        made.train()
        return (made.model.table.detach() - before).double().cpu()


@contextmanager
def _errors_only() -> Iterator[None]:
    """transformers warns of a prompt that is an end token."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
