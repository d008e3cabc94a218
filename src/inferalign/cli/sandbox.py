"""`inferalign sandbox sample|grade|train|train-reward`: show, measure on, and re-make the embedded world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(name="sandbox", help="Sample, grade and re-make the embedded world.", help_format="plaintext")
app.command(
    "inferalign.cli.sandbox_reward:train_reward",
    name="train-reward",
    help="Train a reward model on graded pairs, resumably, on the CPU.",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which requests of the sandbox to write."""

    kind: str
    """The situation: `harmful` or `benign`."""
    n: int
    """How many prompts, all distinct."""
    out: Path
    """The JSONL file to write, one `{"id", "prompt", ...}` a line."""
    seed: int = 0
    """Which prompts: prompt i depends on kind, split, seed and i."""
    split: Literal["train", "test"] = "test"
    """`test` prompts are combinations that the sandbox model was never trained on."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to make the sandbox model again."""

    out: Path
    """The model directory to write; an unfinished one is taken up where it stopped."""
    seed: int = 0
    """Every batch and every initial weight is derived from it."""
    steps: int | None = None
    """Optimiser steps, over which the learning-rate schedule is spread; none takes those of the shipped weights."""


@app.command
def sample(options: SampleOptions) -> None:
    """Write prompts of one situation to a JSONL file."""
    from inferalign.cli.tables import emit
    from inferalign.core.prompts import write_prompts
    from inferalign.sandbox.world import prompts

    made = prompts(options.kind, options.n, options.seed, options.split)
    write_prompts(options.out, made)
    emit({"prompts": len(made), "kind": options.kind, "split": options.split, "out": str(options.out)})


@app.command
def grade(
    run: Annotated[Path, Parameter(name="RUN", help="A run folder that `inferalign generate` wrote.")], /
) -> None:
    """Grade the replies of a run by ground truth, from the text of each prompt and reply alone."""
    from inferalign.cli.tables import emit, grades_table, show
    from inferalign.sandbox.grading import grade_run, summarise

    graded = grade_run(run)
    report = summarise(graded)
    show(grades_table({run.name: report}))
    asked = Counter("benign" if g.benign else "harmful" for g in graded)
    emit({"run": str(run), "requests": dict(asked), **report.as_json()})


@app.command
def train(options: TrainOptions) -> None:
    """Train the sandbox model from scratch, resumably, on the CPU."""
    from inferalign.cli.progress import Bar
    from inferalign.cli.tables import emit
    from inferalign.core.errors import InputError, RunError
    from inferalign.core.files import disk_errors
    from inferalign.core.lookup import load

    if options.steps is not None and options.steps < 1:
        raise InputError(f"steps is {options.steps}: expected at least 1, or leave --steps out")
    unwritable = load("safetensors:SafetensorError")
    quiet = load("inferalign.engines.weights:quiet")
    chosen = {"seed": options.seed} | ({} if options.steps is None else {"steps": options.steps})
    recipe = load("inferalign.sandbox.recipe:Recipe")(**chosen)
    with Bar("train", recipe.steps) as bar, quiet():

        def on_step(step: int, facts: dict[str, float]) -> None:
            bar.advance(step - bar.finished)
            bar.note(", ".join(f"{name} {value:.3g}" for name, value in facts.items()))

        try:
            with disk_errors(options.out, "train into"):
                made = load("inferalign.sandbox.recipe:train")(options.out, recipe, on_step=on_step)
        except unwritable as error:
            raise RunError(
                f"cannot keep the weights in {options.out}: {error}. Free some space, or remove a damaged "
                f"{options.out / 'checkpoint'}, then repeat the same command."
            ) from error
        except KeyboardInterrupt:
            every = recipe.checkpoint_every
            raise KeyboardInterrupt(f"steps up to the last checkpoint (one every {every})") from None
    emit({"model": str(made), "seed": recipe.seed, "steps": recipe.steps})
