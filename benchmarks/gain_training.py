"""The trainings of a gain study: a recipe's reward, what its batches said step by step, and the fitted transform.

OUT/RECIPE@KL-SEED/curve.jsonl    win rates by the selector on the training batches, and CPU seconds, step by step
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gain_plan import PROCEDURES, Plan, Recipe, tell
from inferalign.core.errors import InputError
from inferalign.core.lookup import load as load_object
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.beta import FORECAST_SEED, ranked_rows, reward_kind
from inferalign.ctrl.reward import UNJUDGEABLE, CalibratedReward
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.reward_kinds import Kind
from inferalign.ctrl.rollout_records import read_rollouts
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.scored import JUDGE
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.table import LoadedModel, ModelOptions, is_sandbox, load
from inferalign.sandbox.quality import quality
from inferalign.scorers.base import Scorer
from inferalign.scorers.table import build_scorer
from inferalign.theory.ascent import ascend_at_kl
from inferalign.theory.optimal import grid_for
from inferalign.theory.scores import forecast
from inferalign.theory.transforms import Tabulated
from inferalign.winrate.ceiling import judge_ceiling
from inferalign.winrate.estimators import win_rates
from inferalign.winrate.pools import Pool, Verdicts

FLAT = 1e-4
"""What m may rise by in all and still say nothing of the judge."""
EVERY = 10
"""Steps between lines of progress."""


class Opened(NamedTuple):
    model: LoadedModel
    selector: Scorer


@lru_cache(maxsize=1)
def opened(model: str, reward: str) -> Opened:
    """The base model and the reward, once a process."""
    loaded = load(model, ModelOptions(device="cpu"))
    text = f"reward:{reward}" if Path(reward).is_dir() else reward
    scorer = build_scorer(text, engine=loaded.engine, chat=loaded.chat, sandbox=is_sandbox(loaded.engine.name))
    return Opened(loaded, scorer)


class Recorder:
    """A scorer that keeps the order keys it gave, by prompt, until they are taken."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self.name = scorer, scorer.name
        self._seen: dict[str, list[float]] = {}

    def describe(self) -> Mapping[str, object]:
        return self._scorer.describe()

    async def score(self, prompt: Prompt, responses: Sequence[Completion], usage: RoleUsage) -> list[Score | Unscored]:
        verdicts = await self._scorer.score(prompt, responses, usage)
        found = Verdicts.of(verdicts)
        self._seen.setdefault(prompt.id, []).extend(found.keys[found.judged].tolist())
        return verdicts

    def take(self) -> dict[str, list[float]]:
        seen, self._seen = self._seen, {}
        return seen


def train(out: Path, folder: Path, plan: Plan, recipe: Recipe, settings: CtrlSettings) -> None:
    """One training into `folder`, against the anchors of the study in `out`; one that was stopped goes on."""
    o, anchors, asked = opened(plan.model, plan.reward), AnchorSet.load(out / "anchors"), plan.asked("train")
    kind: Kind
    if recipe.transform == "fitted":
        kind, beta = fitted(out, plan, anchors, settings)
        settings = replace(settings, beta=beta)
    else:
        kind = reward_kind(settings)
    recorder, calibrated = Recorder(o.selector), CalibratedReward(anchors, kind)
    function = RewardFunction(recorder, calibrated, asked, o.model.chat)

    # bare, since a `RewardFunction` is checked on 2,000 reference draws, which would be in the price of a step
    async def reward(**columns: Any) -> list[float | None]:
        return await function(**columns)

    rows = anchor_keys(anchors)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()

    def on_step(step: int, line: Mapping[str, Any]) -> None:
        nonlocal began
        now = time.process_time()
        seen = recorder.take()
        wins = by_selector(seen, rows) if seen else {}
        # What an offline training draws now and then is to measure it by, and teaches nothing.
        drawn = 0.0 if recipe.offline else line["completions/mean_length"] * settings.batch_size
        said = {"step": step, "cpu": now - began, "tokens": drawn, "kl": line.get("kl_sequence"), "beta": line["beta"]}
        began = now
        with (folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps({**said, "wins": wins}) + "\n")
        if step % EVERY == 0 or step == settings.steps:
            shares = ", ".join(f"{name} {100 * win:.1f}" for name, win in wins.items())
            tell(f"{folder.name}: step {step}/{settings.steps}, KL {said['kl']}, by the selector: {shares or '-'}")

    given: dict[str, Any] = {"anchors": anchors, "on_step": on_step}
    if recipe.offline:
        stored = load_object("inferalign.ctrl.stored:StoredRollouts")
        given["rollouts"] = stored.read(out / "anchors", anchors, calibrated)
        settings = replace(settings, **{"algorithm": "offline"})
    tell(f"{folder.name}: training")
    train_ctrl(settings, o.model.engine.name, asked, reward, folder, **given)


def anchor_keys(anchors: AnchorSet) -> dict[str, np.ndarray]:
    """The anchors' order keys by prompt, as `Verdicts` has them; without those that the judge failed at."""
    found = {}
    for name, row in zip(anchors.prompt_ids, ranked_rows(anchors), strict=True):
        found[name] = np.where(row == UNJUDGEABLE, -np.inf, row)
    return found


def by_selector(seen: Mapping[str, Sequence[float]], anchors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Win rates of a training batch against the anchors, the selector being the judge too."""
    chosen = list(PROCEDURES.values())
    enough = {name: np.array(keys) for name, keys in seen.items() if len(keys) >= max(each.n for each in chosen)}
    rates = [win_rates(keys, keys, anchors[name], anchors[name], chosen) for name, keys in enough.items()]
    return dict(zip(PROCEDURES, np.mean(rates, axis=0).tolist(), strict=True))


def read_curve(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """One line a step: a step that was taken again after a stop counts once."""
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return tuple({line["step"]: line for line in lines}.values())


def fitted(out: Path, plan: Plan, anchors: AnchorSet, settings: CtrlSettings) -> tuple[Tabulated, float]:
    """The best transform of the selector's rank for this judge, and its beta at these anchors.

    Phi(v) = -int_v^1 g(F) m'(v) dv (see `winrate.ceiling`), m measured on the training prompts' anchors, which the
    judge grades: so this recipe has seen the judge, through one curve, and no test prompt. Raises `InputError` where m
    is flat.
    """
    chosen = PROCEDURES[settings.procedure]
    curve, grid = judge_ceiling(chosen, judged_anchors(out, plan, anchors)), grid_for(chosen)
    steep = curve.slope(grid.u, grid.s)
    if grid.integrate(steep) < FLAT:
        raise InputError("the judge's grades do not rise with the selector's rank anywhere, so nothing can be fitted")
    found = ascend_at_kl(lambda p: -grid.tail(chosen.g(p.F, p.S) * steep), settings.kl, grid)
    shape = Tabulated(grid, np.minimum(found.phi, 0.0), name="fitted")
    return shape, forecast(ranked_rows(anchors), chosen, shape, settings.kl, FORECAST_SEED).beta


def judged_anchors(out: Path, plan: Plan, anchors: AnchorSet) -> Pool:
    """The anchors' rollouts as a pool: the selector's scores, and the oracle's quality of the same texts."""
    chat = opened(plan.model, plan.reward).model.chat
    asked = {prompt.id: prompt for prompt in plan.asked("train")}
    selector, judge = {}, {}
    for each in read_rollouts(out / "anchors"):
        keys = np.where(each.scores.scored, each.scores.values, -np.inf)
        selector[each.prompt_id] = Verdicts(keys, each.scores.blame != JUDGE)
        drawn = zip(each.token_ids, each.stops, strict=True)
        texts = [Completion(token_ids=ids, text=chat.decode(ids), stop=stop) for ids, stop in drawn]
        judge[each.prompt_id] = Verdicts.of([quality(asked[each.prompt_id], text) for text in texts])
    return Pool(
        selector=selector,
        judge=judge,
        log_ratios={name: np.zeros(row.keys.size) for name, row in selector.items()},
    )
