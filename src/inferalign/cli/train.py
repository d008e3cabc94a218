"""`inferalign train`: a model trained for the procedure that it will be decoded with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from inferalign.cli.own_folder import CONFIG, require_own, write_asked
from inferalign.ctrl.settings import CtrlSettings

if TYPE_CHECKING:
    from inferalign.core.types import Prompt
    from inferalign.ctrl.anchors import AnchorSet
    from inferalign.ctrl.reward_function import RewardFunction
    from inferalign.ctrl.run import Trained
    from inferalign.ctrl.stored import StoredRollouts

FLAGS = {"procedure": "for"}
METRICS, VERB = "metrics.json", "train"


def _flag(name: str) -> str:
    return FLAGS.get(name, name.replace("_", "-"))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that `train` takes."""

    model: str
    """What training starts from, and what the anchors were drawn from: `sandbox`, a model directory, or a hub id."""
    prompts: Path
    """The prompts that the anchors were drawn for: JSONL, one object a line with `id` and `prompt` or `messages`."""
    anchors: Path
    """The run folder that `calibrate` wrote."""
    run: Path
    """The run folder to write, with the trained model in `model/`; an unfinished one is taken up where it stopped."""
    scorer: str = "reward"
    """The reward, the same as that of the anchors: `reward`, `reward:DIR`, `self`, a template (FILE.toml)."""
    chat_template: Path | None = None
    """A Jinja file that replaces the tokenizer's chat template."""
    report_to: Annotated[list[str], Parameter(negative="")] = field(default_factory=list)
    """Send each step's numbers to trackers too: `wandb`, `tensorboard`, `mlflow`, `trackio`."""
    settings: Annotated[CtrlSettings, Parameter(name="*", name_transform=_flag)] = field(default_factory=CtrlSettings)


def train(options: TrainOptions) -> None:
    """Train for a procedure by KL-regularised reinforcement learning on calibrated rewards, resumably."""
    import os
    from contextlib import closing, nullcontext

    from inferalign.cli.progress import Bar, kept_steps
    from inferalign.cli.tables import emit, show
    from inferalign.core.config import to_dict
    from inferalign.core.errors import InferalignError
    from inferalign.core.files import write_json_atomic
    from inferalign.core.lookup import load
    from inferalign.core.prompts import read_prompts
    from inferalign.ctrl.anchors import AnchorSet
    from inferalign.engines.chat import read_template

    leave_processes = load("inferalign.ctrl.processes:leave_processes")
    load("inferalign.ctrl.processes:check_processes")(options.settings)
    load("inferalign.ctrl.trackers:check_trackers")(options.report_to)
    require_own(options.run, VERB)
    first = os.environ.get("RANK", "0") == "0"
    if first and (harm := _harm(options.settings)):
        show(harm)
    prompts, anchors = read_prompts(options.prompts), AnchorSet.load(options.anchors)
    train_ctrl = load("inferalign.ctrl.run:train_ctrl")
    model, reward = _reward(options, prompts, anchors)
    template = read_template(options.chat_template)
    config = {"verb": VERB, **to_dict(options)}
    if (done := _finished(options.run, config, anchors)) is not None:
        if first:
            emit({"run": str(options.run), **done})
        return
    reports = load("inferalign.ctrl.trackers:Reports")(options.report_to if first else [], options.run, config)

    def on_begin(done: int) -> None:
        if first and not done:
            write_asked(options.run, config)
        reports.begin(done)

    with Bar("train", options.settings.steps) if first else nullcontext() as bar, closing(reports):

        def on_step(step: int, line: Mapping[str, Any]) -> None:
            if bar is None:
                return
            bar.advance(step - bar.finished)
            bar.note(_note(line))
            reports.step(step, line)

        facts: dict[str, Any] = {"anchors": anchors.card.digest}

        def on_end(made: Trained) -> None:
            facts.update({**asdict(made), "model": str(made.model)})
            if first:
                write_json_atomic(options.run / METRICS, facts)

        try:
            train_ctrl(
                options.settings,
                model,
                prompts,
                reward,
                options.run,
                anchors=anchors,
                rollouts=_rollouts(options, anchors),
                chat_template=template,
                on_begin=on_begin,
                on_step=on_step,
                on_end=on_end,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                *kept_steps(options.run, options.settings.checkpoint_every, "--checkpoint-every")
            ) from None
        except InferalignError:  # between two collectives, so that leaving waits for nothing
            leave_processes()
            raise
    if first:
        emit({"run": str(options.run), **facts})
    leave_processes()


def _finished(run: Path, config: Mapping[str, Any], anchors: AnchorSet) -> dict[str, Any] | None:
    """What `metrics.json` says of a training that this very command has finished, such as one that was killed then.

    The anchors answer for model, template, prompts and scorer: they were required to be of these.
    """
    import json

    from inferalign.core.files import read_json

    if not all((run / name).exists() for name in ("model", CONFIG, METRICS)):
        return None
    facts: dict[str, Any] = read_json(run / METRICS)
    same = read_json(run / CONFIG) == json.loads(json.dumps(config)) and facts["anchors"] == anchors.card.digest
    return facts if same else None


def _harm(settings: CtrlSettings) -> str | None:
    """What theory says against the transform at the KL that is aimed at, if anything."""
    from inferalign.ctrl.anchor_quality import harm_in_words
    from inferalign.ctrl.beta import reward_kind
    from inferalign.theory.transforms import Transform

    if settings.beta is not None or not isinstance(reward_kind(settings), Transform):
        return None
    return harm_in_words(settings.procedure, settings.transform, settings.kl)


def _note(line: Mapping[str, Any]) -> str:
    """A step in few words; without a reward where nothing was scored, as in most steps of algorithm offline."""
    said = [f"KL {line['kl_sequence'] if 'kl_sequence' in line else line['kl_stored']:.3f}"]
    reward = line.get("reward")
    return ", ".join(said if reward is None else [*said, f"reward {reward:.3f}"])


def _reward(options: TrainOptions, prompts: list[Prompt], anchors: AnchorSet) -> tuple[str, RewardFunction]:
    """The model's name, and the reward of these anchors: of this model, template, sampling, scorer and prompts.

    The engine goes with this function unless the scorer reads by it: training holds the weights often enough.
    """
    from inferalign.cli.calibrate import check_start
    from inferalign.ctrl.anchors import AnchorCard, facts, prompts_sha256
    from inferalign.ctrl.beta import reward_kind
    from inferalign.ctrl.reward import CalibratedReward
    from inferalign.ctrl.reward_function import RewardFunction
    from inferalign.engines.table import ModelOptions, is_sandbox, load
    from inferalign.procedures.base import Sampling
    from inferalign.scorers.table import build_scorer

    check_start(options.model)
    kind = reward_kind(options.settings)
    model = ModelOptions(chat_template=options.chat_template)
    loaded = load(options.model, model)
    scorer = build_scorer(
        options.scorer,
        engine=loaded.engine,
        chat=loaded.chat,
        sandbox=is_sandbox(loaded.engine.name),
        options=model,
    )
    sampling = Sampling(temperature=1.0, max_new_tokens=options.settings.max_new_tokens)
    now = facts(loaded.engine, loaded.chat, scorer, sampling)
    anchors.require(AnchorCard(**now, prompts_sha256=prompts_sha256(prompts), k=anchors.card.k, seed=anchors.card.seed))
    return loaded.engine.name, RewardFunction(scorer, CalibratedReward(anchors, kind), prompts, loaded.chat)


def _rollouts(options: TrainOptions, anchors: AnchorSet) -> StoredRollouts | None:
    """What offline regression trains on, from the run folder that holds the anchors."""
    if options.settings.algorithm != "offline":
        return None
    from inferalign.ctrl.beta import reward_kind
    from inferalign.ctrl.reward import CalibratedReward
    from inferalign.ctrl.stored import StoredRollouts

    return StoredRollouts.read(options.anchors, anchors, CalibratedReward(anchors, reward_kind(options.settings)))
