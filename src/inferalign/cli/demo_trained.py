"""The end of `inferalign demo`: two policies trained from the sandbox model, decoded side by side under best-of-4.

    identity     trained on its calibrated reward as it is, which is best for plain sampling
    best-of-4    trained on an exponential of it, for best-of-4 (InfAlign-CTRL, arXiv 2412.19792)

They are shipped as small differences to the sandbox model, at about the same KL to it. They and the model itself draw 8
answers a prompt, the reward model scores them, and the oracle's graded quality judges: a win rate of best-of-4 comes
from all subsets of 4 (`winrate.estimators`), both sides decoded alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from inferalign.core.stats import Estimate
    from inferalign.winrate.pools import Pool

BASE = "sandbox"
IDENTITY, TRAINED = "sandbox:identity", "sandbox:best-of-4"
DRAWS = "best-of-n:8"
"""Its candidates are plain draws."""
SHOWN = "best-of-n:4"
TOKENS = "96"


def show_trained(root: Path, seed: int, n: int) -> dict[str, Any] | None:
    """Run, judge and show the three; None where none are shipped. Run folders are kept in `root`."""
    from inferalign.cli.tables import show
    from inferalign.cli.workers import keep_prompts
    from inferalign.core.stats import paired_difference
    from inferalign.engines.table import shipped_deltas
    from inferalign.sandbox.situations import SITUATIONS
    from inferalign.sandbox.world import prompts

    if missing := {IDENTITY, TRAINED} - {f"{BASE}:{name}" for name in shipped_deltas()}:
        show(f"No policy trained for a procedure is shipped here ({', '.join(sorted(missing))}).\n")
        return None
    folder = root / "trained"
    asked = [prompt for kind in SITUATIONS for prompt in prompts(kind, max(1, n // 2), seed)]
    keep_prompts(folder / "prompts.jsonl", asked)
    base = _drawn(folder, BASE, seed, len(asked))
    # The policies share their random numbers, so that what they differ in is the training; the base has others.
    wins = {model: _wins(_drawn(folder, model, seed + 1, len(asked)), base, model) for model in (IDENTITY, TRAINED)}
    gain = paired_difference(wins[TRAINED], wins[IDENTITY])
    rates = {model: _mean(each) for model, each in wins.items()}
    facts = {model: _facts(model) for model in rates}
    show(_table(rates, facts, gain, len(asked)))
    told = {model: {"win_rate": _plain(rate), **facts[model]} for model, rate in rates.items()}
    return {"prompts": len(asked), "procedure": SHOWN, "policies": told, "gain": _plain(gain)}


def _drawn(folder: Path, model: str, seed: int, total: int) -> Pool:
    """One policy's answers with their scores and grades; the log ratios are not measured here, and are 0."""
    from inferalign.cli import workers

    run = folder / model.replace(":", "-")
    arguments = ["--model", model, "--procedure", DRAWS, "--scorer", "reward", "--seed", str(seed)]
    arguments += ["--prompts", str(folder / "prompts.jsonl"), "--max-new-tokens", TOKENS]
    workers.generate(run, arguments, model, total)
    return read_pool(run)


def read_pool(run: Path) -> Pool:
    """A run of best-of-N on the sandbox as a pool: its guide's scores select, the oracle's quality judges."""
    import numpy as np

    from inferalign.core.records import read_records
    from inferalign.core.results import from_record
    from inferalign.core.types import Score, Unscored
    from inferalign.sandbox.quality import quality
    from inferalign.winrate.pools import Pool, Verdicts

    selector, judge = {}, {}
    for record in read_records(run, "generate"):
        result = from_record(record)
        scores = [each.score for each in result.candidates if isinstance(each.score, Score | Unscored)]
        selector[result.prompt.id] = Verdicts.of(scores)
        judge[result.prompt.id] = Verdicts.of([quality(result.prompt, each.completion) for each in result.candidates])
    return Pool(
        selector=selector, judge=judge, log_ratios={name: np.zeros(row.keys.size) for name, row in judge.items()}
    )


def _wins(pool: Pool, base: Pool, model: str) -> Mapping[str, float]:
    from inferalign.theory.procedures import parse_selection
    from inferalign.winrate.compare import Policy, measure

    chosen = parse_selection(SHOWN)
    return measure(Policy(model, None, (pool,)), base, {SHOWN: chosen}).wins[SHOWN]


def _mean(wins: Mapping[str, float]) -> Estimate:
    from inferalign.core.stats import mean_interval

    return mean_interval([wins[name] for name in sorted(wins)])


def _facts(model: str) -> dict[str, Any]:
    """What was measured when the difference was made."""
    from importlib.resources import files

    from inferalign.core.files import read_json
    from inferalign.engines.table import DELTAS

    name = model.partition(":")[2]
    facts = read_json(Path(str(files("inferalign.sandbox"))) / DELTAS / name / "delta.json")["facts"]
    return {key: facts[key] for key in ("trained_for", "transform", "kl")}


def _plain(estimate: Estimate) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(estimate)


def _table(rates: Mapping[str, Estimate], facts: Mapping[str, Mapping[str, Any]], gain: Estimate, n: int) -> Table:
    from rich.table import Table

    from inferalign.cli.tables import short

    table = Table(
        title=f"Trained for the procedure: win rate over the sandbox model under best-of-4 on both sides, {n} prompts",
        title_justify="left",
        caption="the reward model selects, the oracle's quality judges; % [95 % over prompts]; KL in nats, when made",
        caption_justify="left",
    )
    for column in ("model", "trained for", "transform", "KL", "win rate"):
        table.add_column(column)
    for model, rate in rates.items():
        told = facts[model]
        table.add_row(model, told["trained_for"], told["transform"], f"{told['kl']:.2f}", short(rate))
    table.add_row("best-of-4 less identity, points", "", "", "", short(gain))
    return table
