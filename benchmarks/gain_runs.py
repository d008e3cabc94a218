"""The runs behind `ctrl_gain`: anchors, trainings and pools on the sandbox, each in a folder that is taken up again.

    OUT/config.json               the plan; another plan is refused
    OUT/anchors/                  K scored rollouts of the base model a training prompt, as `calibrate` leaves them
    OUT/base/                     the base model's pool on the test prompts, with what selector and judge say of it
    OUT/RECIPE@KL-SEED/           one training, as `train` leaves it, and its pool; beta was found for this KL
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
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gain_plan import KL, RECIPES, Plan, charged, keep_plan, tell
from benchmarks.gain_training import opened, read_curve, train
from inferalign import api
from inferalign.core.files import read_json
from inferalign.core.seeds import derive
from inferalign.ctrl.roller import Roller
from inferalign.ctrl.rollouts import Local, calibrate
from inferalign.engines.table import LoadedModel, ModelOptions, load
from inferalign.sandbox.quality import QualityScorer
from inferalign.winrate.pools import Pool
from inferalign.winrate.run import POOL, judged_pool

IN_FLIGHT = 16
WEIGHTS = "model.safetensors"
EXTRA = 3
"""Times that a sweep is widened at most until it encloses the KL."""
BEYOND = 1.4
"""The next point of such a sweep aims at so many times the KL, or at its inverse."""


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
    """Every run of the plan: the base model's pool, its mean length, and all points, in the plan's order."""
    keep_plan(out, plan)
    with _workers(processes) as submit:
        shards = [f"{i}/{processes}" for i in range(1, processes + 1)] if processes > 1 else [None]
        for each in [submit(draw_anchors, out, plan, shard) for shard in shards]:
            each.result()
        waiting = {
            submit(make_point, out, plan, name, kl, seed, 1.0): (name, seed)
            for seed in range(plan.seeds)
            for name in plan.recipes
            for kl in plan.targets(name)
        }
        base = submit(draw_base, out, plan)
        points = []
        for point in _widened(waiting, lambda task: submit(make_point, out, plan, *task)):
            points.append(point)
            if base.done():
                base.result()  # if it failed, now and not when all is trained
        points.sort(key=lambda each: (each.seed, plan.recipes.index(each.recipe), each.target, each.scale))
        return *base.result(), points


def _widened(
    waiting: dict[Future[Point], tuple[str, int]], submit: Callable[[tuple[str, float, int, float]], Future[Point]]
) -> Iterator[Point]:
    """Points as they are done, and those that a sweep is widened by as soon as it has no other to wait for.

    waiting: the sweep of each, by recipe and training seed.
    """
    found: dict[tuple[str, int], list[Point]] = {}
    widened = Counter[tuple[str, int]]()
    while waiting:
        for done in wait(waiting, return_when=FIRST_COMPLETED).done:
            sweep = waiting.pop(done)
            found.setdefault(sweep, []).append(done.result())
            yield found[sweep][-1]
            if sweep not in waiting.values() and widened[sweep] < EXTRA:
                widened[sweep] += 1
                waiting |= {submit(task): sweep for task in widening(found[sweep])}


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
def _workers(processes: int) -> Iterator[Callable[..., Future[Any]]]:
    """What does a piece of work, in this process or in several."""
    if processes == 1:
        yield _here
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool.submit
        except BaseException:  # one that failed must not wait for the whole queue; it goes on up
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _here(work: Callable[..., Any], *task: Any) -> Future[Any]:
    made: Future[Any] = Future()
    made.set_result(work(*task))
    return made


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
            train(out, trained, plan, recipe, plan.settings(recipe, kl, seed))
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
