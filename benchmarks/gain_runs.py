"""The runs behind `ctrl_gain`: anchors, trainings and pools on the sandbox, each in a folder that is taken up again.

    OUT/config.json               the plan; another plan is refused
    OUT/anchors/                  K scored rollouts of the base model a training prompt, as `calibrate` leaves them
    OUT/base/                     the base model's pool on the test prompts, with what selector and judge say of it
    OUT/RECIPE@KL-SEED/           one training, as `train` leaves it, and its pool; beta was found for this KL
    OUT/RECIPE@KL-SEED/curve.jsonl    win rates by the selector on the training batches, and CPU seconds, step by step
    OUT/RECIPE@KL-SEED/cost.jsonl     CPU seconds of each session
    OUT/RECIPE@KL-SEED-xSCALE/        the same policy with its difference to the base model stretched, and its pool

Training prompts are of the train split, test prompts of the test split, both of seeds derived from the plan's. The pool
of a policy is drawn once, and everything is judged from it. A point is one recipe at one beta with one training seed;
points are independent, so two processes with one thread each share them.

A sweep whose points do not enclose the KL is widened by stretching the nearest policy's difference to the base model.
To first order that multiplies log pi/p by the same number, which is what another beta does to a policy e^(Phi/beta) /
Z; weights between a model and its training stay near the front of KL and reward (arXiv 2406.16768). How far is chosen
by KL alone.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gain_plan import KL, PROCEDURES, RECIPES, Plan, Recipe, charged, keep_plan, tell
from inferalign import api
from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.core.lookup import load as load_object
from inferalign.core.seeds import derive
from inferalign.core.types import Completion, Prompt, RoleUsage, Score, Unscored
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.beta import reward_kind
from inferalign.ctrl.reward import CalibratedReward
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.reward_kinds import Kind
from inferalign.ctrl.rollout_records import read_rollouts
from inferalign.ctrl.rollouts import Local, Roller, calibrate
from inferalign.ctrl.run import train_ctrl
from inferalign.ctrl.scored import SCORED
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.table import LoadedModel, ModelOptions, is_sandbox, load
from inferalign.sandbox.quality import QualityScorer, quality
from inferalign.scorers.base import Scorer
from inferalign.scorers.table import build_scorer
from inferalign.theory.ascent import ascend_at_kl
from inferalign.theory.optimal import grid_for
from inferalign.theory.scores import forecast
from inferalign.theory.transforms import Tabulated
from inferalign.winrate.ceiling import judge_ceiling
from inferalign.winrate.estimators import win_rates
from inferalign.winrate.pools import Pool, Verdicts
from inferalign.winrate.run import POOL, judged_pool

IN_FLIGHT = 16
WEIGHTS = "model.safetensors"
EXTRA = 3
"""Times that a sweep is widened at most until it encloses the KL."""
BEYOND = 1.4
"""The next point of such a sweep aims at so many times the KL, or at its inverse."""
FLAT = 1e-4
"""What m may rise by in all and still say nothing of the judge."""
EVERY = 10
"""Steps between lines of progress."""
T = TypeVar("T")
S = TypeVar("S")


class Point(NamedTuple):
    """One trained policy, judged."""

    recipe: str
    target: float
    seed: int
    scale: float
    """What its difference to the base model was multiplied by."""
    beta: float
    """That of the training over the scale."""
    pool: Pool
    length: float
    """Tokens of an answer to a test prompt, in the mean."""
    curve: tuple[Mapping[str, Any], ...]
    """One line a step: `cpu` of the step, `tokens` drawn in it, `kl`, and `wins` by the selector."""

    @property
    def kl(self) -> float:
        return float(np.mean([row.mean() for row in self.pool.log_ratios.values()]))


def study(out: Path, plan: Plan, processes: int) -> tuple[Pool, float, list[Point]]:
    """Every run of the plan: the base model's pool, its mean length, and all points."""
    keep_plan(out, plan)
    with _workers(processes) as do:
        shards = [f"{i}/{processes}" for i in range(1, processes + 1)] if processes > 1 else [None]
        do(draw_anchors, [(out, plan, shard) for shard in shards])
        tasks = [(name, kl, seed, 1.0) for seed in range(plan.seeds) for kl in plan.kls for name in plan.recipes]
        (base, length), *found = do(either, [(out, plan), *((out, plan, *task) for task in tasks)])
        points: list[Point] = found
        for _ in range(EXTRA):
            points += do(either, [(out, plan, *task) for task in widening(points)])
    return base, length, points


def either(*task: Any) -> Any:
    """The base model's pool, or one point: they share a queue."""
    return draw_base(*task) if len(task) == 2 else make_point(*task)


def widening(points: Sequence[Point]) -> list[tuple[str, float, int, float]]:
    """For each sweep that does not enclose the KL, what to stretch next and how far: by the KLs that were measured."""
    wanted = []
    for recipe, seed in dict.fromkeys((point.recipe, point.seed) for point in points):
        sweep = [point for point in points if (point.recipe, point.seed) == (recipe, seed)]
        low, high = min(sweep, key=lambda point: point.kl), max(sweep, key=lambda point: point.kl)
        if low.kl <= KL <= high.kl:
            continue
        near, aim = (high, BEYOND * KL) if high.kl < KL else (low, KL / BEYOND)
        wanted.append((recipe, near.target, seed, round(near.scale * stretch_for(aim, near.kl), 3)))
    return wanted


def stretch_for(aim: float, kl: float) -> float:
    """What to multiply a policy's difference to the base by, so that its KL of `kl` becomes about `aim`.

    KL is about the square of the scale, and one step is at most a doubling: a measured KL may be near 0, or below.
    """
    return min(max((aim / max(kl, 1e-6)) ** 0.5, 0.5), 2.0)


@contextmanager
def _workers(processes: int) -> Iterator[Callable[..., list[Any]]]:
    """A map over argument tuples, in this process or in several."""
    if processes == 1:
        yield lambda work, tasks: [work(*task) for task in tasks]
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield lambda work, tasks: [each.result() for each in [pool.submit(work, *task) for task in tasks]]
        except BaseException:  # one that failed must not wait for the whole queue; it goes on up
            pool.shutdown(wait=True, cancel_futures=True)
            raise


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


def draw_anchors(out: Path, plan: Plan, shard: str | None) -> None:
    """This shard's rollouts; the process that ends last writes the artefact."""
    folder, o, seed = out / "anchors", opened(plan.model, plan.reward), derive(plan.seed, "anchors")
    if (folder / "anchors.json").exists():
        return
    tell(f"anchors: {plan.k} rollouts a prompt, shard {shard or '1/1'}")
    with charged(folder, "shard-" + (shard or "1/1").replace("/", "-of-")):
        roller = Roller(o.model.engine, o.model.chat, o.selector, k=plan.k, seed=seed, sampling=plan.sampling)
        asked = plan.asked("train")
        made = calibrate(Local(roller, IN_FLIGHT), asked, folder, k=plan.k, seed=seed, shard=shard)
    if made.anchors is not None:
        made.anchors.save(folder)


def draw_base(out: Path, plan: Plan) -> tuple[Pool, float]:
    """The base model's pool on the test prompts, and its answers' mean length."""
    o, folder = opened(plan.model, plan.reward), out / "base"
    return _pool(plan, folder, o.model, plan.base_m, derive(plan.seed, "base")), mean_length(folder)


def make_point(out: Path, plan: Plan, name: str, kl: float, seed: int, scale: float) -> Point:
    """Train one policy as far as it is not, stretch it if that is asked for, and judge its pool."""
    recipe, trained = RECIPES[name], point_folder(out, name, kl, seed)
    if not (trained / "model").exists():
        with charged(trained, "train"):
            _train(out, trained, plan, recipe, plan.settings(recipe, kl, seed))
    folder = trained if scale == 1 else point_folder(out, name, kl, seed, scale)
    if not (folder / "model").exists():
        stretch(Path(opened(plan.model, plan.reward).model.engine.name), trained / "model", folder / "model", scale)
    policy = load(str(folder / "model"), ModelOptions(device="cpu"))
    pool = _pool(plan, folder, policy, plan.m, derive(plan.seed, "policy", seed))
    curve = read_curve(trained)
    return Point(name, kl, seed, scale, float(curve[-1]["beta"]) / scale, pool, mean_length(folder), curve)


def stretch(base: Path, trained: Path, out: Path, scale: float) -> None:
    """A model directory with the weights base + scale (trained - base), whole or not at all."""
    before, after = ({n: w.float() for n, w in load_file(each / WEIGHTS).items()} for each in (base, trained))
    made = out.with_name("unfinished")
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(trained, made, ignore=shutil.ignore_patterns(WEIGHTS, "inferalign.json", "README.md"))
    weights = {name: before[name] + scale * (after[name] - before[name]) for name in after}
    save_file(weights, made / WEIGHTS, metadata={"format": "pt"})
    made.rename(out)


def point_folder(out: Path, recipe: str, target: float, seed: int, scale: float = 1.0) -> Path:
    """Where a training and its pool are, or a stretched policy and its."""
    return out / (f"{recipe.replace(':', '')}@{target:g}-{seed}" + ("" if scale == 1 else f"-x{scale:g}"))


def _pool(plan: Plan, folder: Path, policy: LoadedModel, count: int, seed: int) -> Pool:
    o = opened(plan.model, plan.reward)

    async def drawn() -> Pool:
        await api.agenerate(
            policy,
            f"random-of-n:{count}",
            plan.asked("test"),
            seed=seed,
            run=folder / POOL,
            sampling=plan.sampling,
            concurrency=IN_FLIGHT,
        )
        return await judged_pool(folder, policy, o.model, o.selector, QualityScorer(), concurrency=IN_FLIGHT)

    tell(f"{folder.name}: {count} answers a test prompt")
    with charged(folder, "pool"):
        return asyncio.run(drawn())


def mean_length(folder: Path) -> float:
    """Tokens of an answer in a pool."""
    told = read_json(folder / POOL / "metrics.json")
    return float(told["usage"]["generator"]["new_tokens"] / told["candidates"])


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


def _train(out: Path, folder: Path, plan: Plan, recipe: Recipe, settings: CtrlSettings) -> None:
    o, anchors, asked = opened(plan.model, plan.reward), AnchorSet.load(out / "anchors"), plan.asked("train")
    kind: Kind
    if recipe.transform == "fitted":
        kind, beta = fitted(out, plan, anchors, settings)
        settings = replace(settings, beta=beta)
    else:
        kind = reward_kind(settings)
    recorder, calibrated = Recorder(o.selector), CalibratedReward(anchors, kind)
    function = RewardFunction(recorder, calibrated, asked, o.model.chat)

    async def reward(**columns: Any) -> list[float | None]:
        return await function(**columns)

    rows = dict(zip(anchors.prompt_ids, order_keys(anchors), strict=True))
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


def order_keys(anchors: AnchorSet) -> list[np.ndarray]:
    """The anchors' scores by prompt; what could not be scored ranks below."""
    values = np.where(anchors.scores.blame == SCORED, anchors.scores.values, -np.inf)
    return list(values)


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
    return shape, forecast(order_keys(anchors), chosen, shape, settings.kl, settings.seed).beta


def judged_anchors(out: Path, plan: Plan, anchors: AnchorSet) -> Pool:
    """The anchors' rollouts as a pool: the selector's scores, and the oracle's quality of the same texts."""
    chat = opened(plan.model, plan.reward).model.chat
    asked = {prompt.id: prompt for prompt in plan.asked("train")}
    keys = dict(zip(anchors.prompt_ids, order_keys(anchors), strict=True))
    judge = {}
    for each in read_rollouts(out / "anchors"):
        drawn = zip(each.token_ids, each.stops, strict=True)
        texts = [Completion(token_ids=ids, text=chat.decode(ids), stop=stop) for ids, stop in drawn]
        judge[each.prompt_id] = Verdicts.of([quality(asked[each.prompt_id], text) for text in texts])
    return Pool(
        selector={name: Verdicts(row, np.ones(row.size, dtype=np.bool_)) for name, row in keys.items()},
        judge=judge,
        log_ratios={name: np.zeros(row.size) for name, row in keys.items()},
    )
