"""`inferalign sandbox train-reward`: a reward model from a file of pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainRewardOptions:
    """How to make a reward model."""

    base: Path
    """The model whose first layers it keeps and whose replies the pairs are made of: a directory, or `sandbox`."""
    pairs: Path
    """JSONL, one pair a line with `id`, `messages`, `chosen`, `rejected`, `margin` and `meta`."""
    out: Path
    """The directory to write; an unfinished one is taken up where it stopped."""
    seed: int = 0
    """The head's first weights and the order of the pairs are derived from it."""
    layers: int | Literal["all"] = 3
    """How many of the last layers are trained, beside the head and the final norm; `all` trains everything."""


def train_reward(options: TrainRewardOptions) -> None:
    """Train a reward model on graded pairs, resumably, on the CPU; needs the extra `train`."""
    from inferalign.cli.progress import Bar, kept_steps
    from inferalign.cli.tables import emit
    from inferalign.core.lookup import load
    from inferalign.core.shards import training_into
    from inferalign.engines.table import SANDBOX, is_sandbox, shipped_model
    from inferalign.sandbox.curriculum import SCORE
    from inferalign.sandbox.pairs import read_pairs

    pairs = read_pairs(options.pairs)
    base = shipped_model() if str(options.base) == SANDBOX else options.base
    # A sandbox model was taught to score replies: at the end of that question its last layer knows what it will say.
    question = SCORE if is_sandbox(str(base)) else ""
    make = load("inferalign.sandbox.reward_fit:RewardSettings")
    recipe = make(seed=options.seed, layers=options.layers, question=question)
    steps = load("inferalign.sandbox.reward:planned_steps")(pairs, recipe)
    with Bar("train-reward", steps) as bar:

        def on_step(step: int, facts: dict[str, float]) -> None:
            bar.advance(step - bar.finished)
            bar.note(", ".join(f"{name} {value:.3g}" for name, value in facts.items()))

        try:
            with training_into(options.out, flag="--out"):
                made = load("inferalign.sandbox.reward:train_reward")(base, pairs, options.out, recipe, on_step=on_step)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*kept_steps(options.out, recipe.checkpoint_every)) from None
    emit(
        {
            "reward": str(made.folder),
            "seed": options.seed,
            "pair_accuracy": asdict(made.accuracy),
            "trained_on": made.trained_on,
            "held_out": len(made.held_out),
            "too_long": made.too_long,
        }
    )
