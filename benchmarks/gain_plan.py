"""What a gain study is: its recipes, the settings that decide its numbers, and the costs it writes down."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inferalign.core.files import read_json, write_json_atomic
from inferalign.core.records import differences
from inferalign.core.seeds import derive
from inferalign.core.types import Prompt
from inferalign.ctrl.settings import CtrlSettings
from inferalign.procedures.base import Sampling
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.world import prompts
from inferalign.theory.procedures import OfN, best_of_n, sample, worst_of_n

KL = 0.5
"""Nats at which recipes are held against each other."""
BEST, WORST = "best-of-n:4", "worst-of-n:4"
PROCEDURES: dict[str, OfN] = {"sample": sample(), BEST: best_of_n(4), WORST: worst_of_n(4)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way of training."""

    name: str
    procedure: str
    """What it is trained for."""
    transform: str
    """Its text form; `fitted` is the best transform for the selector and the judge, m(v) measured on the anchors."""
    share: float = 1.0
    """Of the plan's KL targets. A reward that is flat but for the worst answers needs a small beta for the KL of an
    ideal policy, under which one that has not learnt to tell them drifts: exp:-10 at 0.9 was at 3 nats in 45 steps."""
    offline: bool = False
    """By regression on the anchors' own rollouts, in the place of fresh draws."""


OFFLINE = find_spec("inferalign.ctrl.offline") is not None
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="identity", procedure="sample", transform="identity"),
        Recipe(name="log", procedure=BEST, transform="log"),
        Recipe(name="standardised", procedure="sample", transform="standardised"),
        Recipe(name="raw", procedure="sample", transform="raw"),
        Recipe(name="exp:10", procedure=BEST, transform="exp:10"),
        Recipe(name="exp:-5", procedure=WORST, transform="exp:-5", share=0.5),
        Recipe(name="fitted-best", procedure=BEST, transform="fitted"),
        Recipe(name="fitted-worst", procedure=WORST, transform="fitted", share=0.5),
        Recipe(name="offline:10", procedure=BEST, transform="exp:10", offline=True),
        Recipe(name="offline:-5", procedure=WORST, transform="exp:-5", share=0.5, offline=True),
    )
    if OFFLINE or not recipe.offline
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides a study's numbers."""

    model: str
    reward: str
    """A reward model's folder, or another scorer's text form."""
    seed: int
    recipes: tuple[str, ...]
    kls: tuple[float, ...] = (0.9,)
    """The KL targets of each sweep. What is measured is less: a policy that has not learnt all of the reward gains less
    from each nat than beta was found for, and stops earlier."""
    seeds: int = 3
    """Trainings of each recipe and target."""
    train: int = 40
    """Training prompts a situation."""
    test: int = 40
    """Test prompts a situation."""
    k: int = 100
    """Anchors a training prompt."""
    m: int = 16
    """Answers of a trained policy a test prompt."""
    base_m: int = 48
    """Answers of the base model a test prompt."""
    tokens: int = 64
    """Tokens of an answer before it is cut."""
    steps: int = 120
    batch: int = 128
    generations: int = 16
    rate: float = 4e-3
    lora_rank: int | None = 4
    """None trains all weights, which spends more KL on noise: see docs/ctrl.md."""
    situations: tuple[str, ...] = tuple(SITUATIONS)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=1.0, max_new_tokens=self.tokens)

    def asked(self, split: str) -> list[Prompt]:
        count, seed = (self.train if split == "train" else self.test), derive(self.seed, split) % 2**31
        return [prompt for kind in self.situations for prompt in prompts(kind, count, seed, split)]

    def targets(self, recipe: str) -> list[float]:
        """The KL targets of a recipe's trainings."""
        return [round(RECIPES[recipe].share * kl, 6) for kl in self.kls]

    def settings(self, recipe: Recipe, kl: float, seed: int) -> CtrlSettings:
        return CtrlSettings(
            seed=derive(self.seed, "training", seed) % 2**31,
            procedure=recipe.procedure,
            transform=recipe.transform,
            kl=kl,
            steps=self.steps,
            warmup=min(10, self.steps - 1),
            batch_size=self.batch,
            generations=self.generations,
            max_new_tokens=self.tokens,
            learning_rate=self.rate,
            lora_rank=self.lora_rank,
            checkpoint_every=20,
        )


def keep_plan(out: Path, plan: Plan) -> None:
    """Write the plan, or refuse a folder of another one. Recipes may come later: none decides another's numbers."""
    path, said = out / "config.json", json.loads(json.dumps(asdict(plan)))
    if path.exists():
        before = read_json(path)
        said["recipes"] = list(dict.fromkeys([*before["recipes"], *said["recipes"]]))
        if changes := list(differences(before | {"recipes": said["recipes"]}, said)):
            raise SystemExit(
                f"{out} holds another study ({'; '.join(changes)}): repeat it as it was, or name another --out"
            )
    write_json_atomic(path, said)


def read_plan(out: Path) -> Plan:
    """The plan of a study; JSON has lists where it has tuples."""
    told: dict[str, Any] = read_json(out / "config.json")
    return Plan(**{key: tuple(value) if isinstance(value, list) else value for key, value in told.items()})


@contextmanager
def charged(folder: Path, what: str) -> Iterator[None]:
    """Adds the CPU seconds of this process to the folder's costs, also when the work is stopped."""
    began = time.process_time()
    try:
        yield
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "cost.jsonl").open("a") as file:
            file.write(json.dumps({"what": what, "cpu": time.process_time() - began}) + "\n")


def cpu_seconds(folder: Path, what: str = "") -> float:
    """What a folder's work has cost so far, of the kinds that begin with `what`."""
    lines = [json.loads(line) for line in (folder / "cost.jsonl").read_text().splitlines()]
    return float(sum(line["cpu"] for line in lines if line["what"].startswith(what)))


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
