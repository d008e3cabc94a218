"""`inferalign calibrate`: K reference rollouts a prompt, scored: the anchors that a reward is calibrated against."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inferalign.engines.table import ModelOptions
from inferalign.procedures.base import Sampling

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.core.types import Prompt
    from inferalign.ctrl.anchor_quality import Advice, Quality
    from inferalign.ctrl.roller import Job
    from inferalign.ctrl.rollouts import Outcome


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Everything that `calibrate` takes. `train` samples at temperature 1 from all tokens, as is the default here."""

    model: str
    """What training starts from, exactly: `sandbox`, a transformers model directory, or a hub id."""
    prompts: Path
    """The training prompts: JSONL, one object a line with `id` and `prompt` or `messages`."""
    run: Path
    """The run folder to write, anchors included; an unfinished one is taken up where it stopped."""
    scorer: str = "reward"
    """The reward that will be trained on: `reward` (the sandbox's), `reward:DIR`, `self`, a template (FILE.toml)."""
    k: int | None = None
    """Rollouts a prompt; none takes the fewest that cost the recipe at most half a point of win rate (needs `--for`).
    """
    procedure: Annotated[str | None, Parameter(name="--for")] = None
    """How the model will be decoded: `sample`, `best-of-n:N` or `worst-of-n:N`."""
    transform: str = "optimal"
    """What will be made of the calibrated reward: `identity`, `log`, `exp:10`, `power:7`, `one-shot`, `optimal`."""
    kl: float = 0.5
    """The KL to the starting model that training will aim at, in nats: it decides how many rollouts are enough."""
    seed: int = 0
    """Every draw is derived from it and from the prompt's id; `generate` draws other answers from the same seed."""
    allow_oracle_guide: Annotated[bool, Parameter(negative="")] = False
    """Let the sandbox's ground truth be the reward: the best that any reward could do, not a result."""
    sampling: Annotated[Sampling, Parameter(name="*")] = field(default_factory=Sampling)
    concurrency: int = 4
    """Prompts in flight, K rollouts each: they share the model's passes, and change no rollout."""
    shard: str | None = None
    """`1/2` does half of the prompts, beside another process with `2/2` on the same run folder."""
    ray: int | None = None
    """Workers of a Ray cluster, each with model and reward: a private one here, or the one that RAY_ADDRESS names."""
    engine: Annotated[ModelOptions, Parameter(name="*")] = field(default_factory=ModelOptions)


def calibrate(options: CalibrateOptions) -> None:
    """Draw and score K reference rollouts a prompt, resumably; repeated, score again what the judge failed on."""
    from inferalign.cli.generate import at_once
    from inferalign.cli.tables import emit, show
    from inferalign.core.files import read_json, write_json_atomic
    from inferalign.core.prompts import read_prompts
    from inferalign.core.records import done_ids
    from inferalign.ctrl.anchor_quality import harm_in_words, in_words, measure
    from inferalign.ctrl.anchors import CARD
    from inferalign.ctrl.roller import Job
    from inferalign.ctrl.rollout_records import KIND
    from inferalign.ctrl.rollouts import save_latest

    prompts = read_prompts(options.prompts)
    advice, k = _count(options)
    if advice is not None:
        show(in_words(advice))
        if harm := harm_in_words(advice.procedure, advice.transform, advice.kl):
            show(harm)
    check_start(options.model)
    if (options.sampling.temperature, options.sampling.top_k) != (1.0, None) or options.engine.trust_remote_code:
        show("anchors for a trainer of your own: `inferalign train` draws at temperature 1 and runs no remote code")
    job = Job(
        model=options.model,
        scorer=options.scorer,
        k=k,
        seed=options.seed,
        sampling=options.sampling,
        options=options.engine,
        allow_oracle_guide=options.allow_oracle_guide,
    )
    found = read_json(options.run / CARD) if (options.run / CARD).is_file() else None
    before = found.get("digest") if isinstance(found, dict) else None  # what is no card is written anew
    try:
        with at_once():
            made = _make(options, job, prompts)
    except (KeyboardInterrupt, asyncio.CancelledError):
        begun = any((options.run / "records").glob("*.jsonl"))
        raise KeyboardInterrupt(len(done_ids(options.run, KIND)) if begun else 0) from None
    said: dict[str, Any] = {"run": str(options.run), "k": k, "advice": advice and advice.as_json()}
    said |= {"finished": made.finished, "tokens_per_second": made.tokens_per_second}
    said |= {"scored_again": made.scored_again}
    if made.scored_again:
        show(f"the judge was asked again about {made.scored_again:,} rollouts that it had failed on")
    if made.anchors is None:
        show(f"{made.finished} of {len(prompts)} prompts are done; the shard that ends last writes the anchors")
        emit(said)
        return
    measure(made.anchors, made.reasons)  # refuses what could teach nothing, before it is written
    made = save_latest(made, options.run, prompts)
    assert made.anchors is not None
    quality, card = measure(made.anchors, made.reasons), made.anchors.card
    if before is not None and before != card.digest:
        show("these anchors are others than before: a training that was begun on those cannot be taken up")
    said |= quality.as_json() | {"reasons": dict(made.reasons), "usage": card.usage, "digest": card.digest}
    write_json_atomic(options.run / "metrics.json", said)
    show(_table(quality, made))
    emit(said)


def check_start(model: str) -> None:
    """Raises `InputError` for a trained difference to the sandbox model: training starts from whole weights."""
    from inferalign.core.errors import InputError

    if model.startswith("sandbox:"):
        raise InputError(
            f"{model} is a difference to the sandbox model, and a training starts from a whole one: give sandbox, a "
            "model directory, or a hub id"
        )


def _count(options: CalibrateOptions) -> tuple[Advice | None, int]:
    """What the planner says of the K that was given, or else which one it takes; with no recipe, the given one."""
    from inferalign.core.errors import InputError
    from inferalign.ctrl.anchor_quality import advise, check_count

    if options.procedure is not None:
        advice = advise(options.procedure, options.transform, options.kl, options.k)
        return advice, advice.k
    if options.k is None:
        raise InputError(
            "how many rollouts a prompt? Give what they are for, such as `--for best-of-n:4 --kl 0.5`, or a number, "
            "such as `--k 128`"
        )
    check_count(options.k, options.kl)
    return None, options.k


def _make(options: CalibrateOptions, job: Job, prompts: list[Prompt]) -> Outcome:
    from inferalign.cli.progress import Bar
    from inferalign.core.jobs import check_concurrency
    from inferalign.core.lookup import load
    from inferalign.core.shards import ShardSpec
    from inferalign.ctrl.rollouts import Local, Source
    from inferalign.ctrl.rollouts import calibrate as run_job

    spec = ShardSpec.parse(options.shard)
    check_concurrency(options.concurrency)  # before a model is loaded
    with ExitStack() as opened:
        source: Source
        if options.ray is None:
            source = Local(job.load(), options.concurrency)
        else:
            source = opened.enter_context(load("inferalign.ctrl.ray_rollouts:OnRay")(job, options.ray))
        bar = opened.enter_context(Bar(f"{job.k} rollouts a prompt", sum(spec.takes(prompt.id) for prompt in prompts)))
        return run_job(source, prompts, options.run, k=job.k, seed=job.seed, shard=options.shard, progress=bar)


def _table(quality: Quality, made: Outcome) -> Table:
    from rich.table import Table

    table = Table(
        title=f"Anchors: {quality.prompts:,} prompts x {quality.k:,}", title_justify="left", show_header=False
    )
    table.add_column("what")
    table.add_column("value", justify="right")
    rows = {
        "mean score": f"{quality.mean:.4g}",
        "spread within a prompt (sd)": f"{quality.spread:.4g}",
        "spread between prompts' means (sd), which calibration takes out": f"{quality.between:.4g}",
        "pairs that tie": f"{100 * quality.tied:.2f} %",
        "prompts with one score only: calibrated to 0.5, they teach nothing": f"{quality.constant:,}",
        "rollouts that could not be judged (they rank last)": f"{quality.unscored['response']:,}",
        "rollouts that the judge failed on (left out; repeat this to score them)": f"{quality.unscored['judge']:,}",
        "prompts with fewer than 2 anchors left: repeat this, or `train` refuses them": f"{quality.too_few:,}",
        "tokens": f"{quality.tokens:,}",
        "tokens a rollout": f"{quality.mean_length:.1f}",
    }
    if made.tokens_per_second is not None:
        rows["tokens a second, scoring included"] = f"{made.tokens_per_second:,.0f}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table
