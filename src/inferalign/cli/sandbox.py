"""`inferalign sandbox`: show, measure on, check and re-make the embedded world."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(name="sandbox", help="Sample, grade, audit and re-make the embedded world.", help_format="plaintext")
app.command(
    "inferalign.cli.sandbox_pairs:pairs",
    name="pairs",
    help="Make preference pairs from the candidates of a run, by ground truth.",
)
app.command(
    "inferalign.cli.sandbox_reward:train_reward",
    name="train-reward",
    help="Train a reward model on graded pairs, resumably, on the CPU.",
)

KIND_HELP = (
    "The situation: harmful, benign, ask_clarifying_questions, avoid_value_manipulation, correct_misinformation, "
    "defer_important_decisions, encourage_learning or maintain_social_boundaries; agency stands for the last six, all "
    "for the eight."
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which requests of the sandbox to write."""

    kind: Annotated[str, Parameter(help=KIND_HELP)]
    n: int
    """How many prompts a situation, all distinct."""
    out: Path
    """The JSONL file to write, one `{"id", "prompt", ...}` a line."""
    seed: int = 0
    """Which prompts: prompt i depends on kind, split, seed and i."""
    split: Literal["train", "test"] = "test"
    """`test` prompts are combinations that the sandbox model was never trained on."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What is audited, and on how much."""

    run: Path | None = None
    """A run whose replies are audited too: how many parse, and how many of these no training reply says. Minutes."""
    n: int = 6250
    """Replies of each split of each situation; 6250 makes 100,000 in all."""
    seed: int = 0
    """Which replies: requests and replies are drawn anew, by a seed that no training and no prompt file has."""


AUDIT_DEFAULTS = AuditOptions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to make the sandbox model again."""

    out: Path
    """The model directory to write; an unfinished one is taken up where it stopped."""
    seed: int = 0
    """Every batch and every initial weight is derived from it. The shipped weights are those of seed 1."""
    steps: int | None = None
    """Optimiser steps, over which the learning-rate schedule is spread; none takes those of the shipped weights."""
    start: Annotated[Path | None, Parameter(name="--from")] = None
    """The sandbox model to go on from (a directory, or `sandbox`), as a judge that knows less; 400 steps by default."""
    specificity: float | None = None
    """The share of good replies that the judge's teacher does not suspect (docs/sandbox.md); it goes with --from."""


@app.command
def sample(options: SampleOptions) -> None:
    """Write prompts of one situation, of all six of human agency, or of all eight, to a JSONL file."""
    from inferalign.cli.tables import emit
    from inferalign.core.lookup import resolve
    from inferalign.core.prompts import write_prompts
    from inferalign.sandbox.situations import SITUATIONS
    from inferalign.sandbox.world import AGENCY, prompts

    kinds = {name: (name,) for name in SITUATIONS} | {"agency": AGENCY, "all": tuple(SITUATIONS)}
    asked = resolve(kinds, options.kind, "situation")
    made = [prompt for kind in asked for prompt in prompts(kind, options.n, options.seed, options.split)]
    write_prompts(options.out, made)
    emit({"prompts": len(made), "kind": options.kind, "split": options.split, "out": str(options.out)})


@app.command
def grade(
    run: Annotated[Path, Parameter(name="RUN", help="A run folder that `inferalign generate` wrote.")], /
) -> None:
    """Grade the replies of a run by ground truth, from the text of each prompt and reply alone.

    Harm is of harmful requests, help of benign ones; the rates of each situation follow, with its issues.
    """
    from inferalign.cli.tables import agency_table, emit, errands_table, grades_table, show
    from inferalign.sandbox.grading import by_situation, grade_run, summarise
    from inferalign.sandbox.world import AGENCY

    graded = grade_run(run)
    situations = by_situation(graded)
    errands = {name: report for name, report in situations.items() if name not in AGENCY}
    agency = {name: report for name, report in situations.items() if name in AGENCY}
    report = summarise(g for g in graded if g.situation in errands)
    if errands:
        show(grades_table({run.name: report}))
        show(errands_table(errands))
    if agency:
        show(agency_table(agency))
    asked = Counter(g.situation for g in graded)
    by_name = {name: asdict(report) for name, report in situations.items()}
    emit({"run": str(run), "requests": dict(asked), **report.as_json(), "situations": by_name})


@app.command
def audit(options: AuditOptions = AUDIT_DEFAULTS) -> None:
    """Check the world: one reading of every text, and how well readers without understanding find the main fault.

    Readers are bags of words: of the reply, of the prompt, of both, and of both with the words shared (`overlap`).

    `base` knows how hard each key is and nothing else; the oracle, which reads everything, stands beside them.

    Accuracies are balanced: guessing gets 50 %. Near the oracle, a result says little about understanding.
    """
    import time

    from inferalign.cli.progress import Bar
    from inferalign.cli.tables import copies_table, emit, leakage_table, reading_table, show
    from inferalign.sandbox.audit import Training, Unknown, audit_run, audit_world, said, training_of
    from inferalign.sandbox.grading import grade_run
    from inferalign.sandbox.situations import SITUATIONS

    # A folder that is no run says so before the long part.
    graded = grade_run(options.run) if options.run else []
    training = training_of(options.run) if options.run else Unknown("no run")
    began = time.monotonic()
    with Bar("audit", len(SITUATIONS)) as bar:
        audits, learned = audit_world(options.n, options.seed, bar)
    show(reading_table(audits))
    beside = {name: {**found.readers, "oracle": found.oracle} for name, found in audits.items()}
    show(leakage_table(beside, "the world's own replies"))
    summary: dict[str, object] = {
        "n": options.n,
        "seed": options.seed,
        "situations": {name: asdict(found) for name, found in audits.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    if options.run:
        began = time.monotonic()
        with Bar("training conversations", training.conversations if isinstance(training, Training) else 0) as bar:
            replies = audit_run(graded, learned, training, bar)
        show(copies_table(replies))
        if isinstance(training, Unknown):
            show(f"Which replies are new is not known: {training.reason}.")
        show(leakage_table({name: found.readers for name, found in replies.items()}, "the run's parsed replies"))
        summary |= {
            "run": str(options.run),
            "weights": said(options.run / "config.json", "model", "weights"),
            "training": asdict(training),
            "replies": {name: asdict(found) for name, found in replies.items()},
            "run_seconds": round(time.monotonic() - began, 1),
        }
    emit(summary)


@app.command
def train(options: TrainOptions) -> None:
    """Train the sandbox model from scratch, resumably, on the CPU; or a weaker judge, from its weights.

    From scratch it takes 105 to 160 minutes on two cores, a weaker judge a 25th of that.
    """
    from inferalign.cli.progress import Bar, kept_steps
    from inferalign.cli.tables import emit
    from inferalign.core.errors import InputError, RunError
    from inferalign.core.files import disk_errors
    from inferalign.core.lookup import load
    from inferalign.core.shards import training_into
    from inferalign.engines.table import SANDBOX, shipped_model

    if options.steps is not None and options.steps < 1:
        raise InputError(f"steps is {options.steps}: expected at least 1, or leave --steps out")
    if not 0 <= options.seed < 2**63:  # what torch's generators take
        raise InputError(f"seed is {options.seed}: give one from 0 to 2^63 - 1")
    if (options.start is None) != (options.specificity is None):
        raise InputError("--from DIR and --specificity 0.3 go together: give both, or neither to train from scratch")
    unwritable = load("safetensors:SafetensorError")
    quiet = load("inferalign.engines.weights:quiet")
    chosen = {"seed": options.seed} | ({} if options.steps is None else {"steps": options.steps})
    start = shipped_model() if str(options.start) == SANDBOX else options.start
    if start is None:
        recipe = load("inferalign.sandbox.recipe:Recipe")(**chosen)
    else:
        weaker = load("inferalign.sandbox.weak:weaker")
        recipe = weaker(start, specificity=options.specificity, **chosen)
    with Bar("train", recipe.steps) as bar, quiet():

        def on_step(step: int, facts: dict[str, float]) -> None:
            bar.advance(step - bar.finished)
            bar.note(", ".join(f"{name} {value:.3g}" for name, value in facts.items()))

        try:
            with training_into(options.out, flag="--out"), disk_errors(options.out, "train into"):
                made = load("inferalign.sandbox.training:train")(options.out, recipe, start=start, on_step=on_step)
        except unwritable as error:
            raise RunError(
                f"cannot keep the weights in {options.out}: {error}. Free some space, or remove a damaged "
                f"{options.out / 'checkpoint'}, then repeat the same command."
            ) from error
        except KeyboardInterrupt:
            seconds = load("inferalign.sandbox.training:SECONDS")
            raise KeyboardInterrupt(*kept_steps(options.out, recipe.checkpoint_every, seconds=seconds)) from None
    emit({"model": str(made), "seed": recipe.seed, "steps": recipe.steps})
