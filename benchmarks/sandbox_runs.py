"""What the sandbox studies share: runs by two processes, their outcome by ground truth, and sums over candidates.

A study is a list of `Job`s. `carry_out` does them in resumable run folders by two processes with one thread each, both
of which load the model once and take half of the prompts of every job. `outcome` and `candidates` read a folder back
and grade it by the oracle. The rest is arithmetic:

    judge_rates     how often the guide is right about whole replies of the policy
    bound           what to expect of a reply that the guide accepts
    best_of         best-of-k for every k, from one best-of-N
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

import inferalign
from benchmarks.mains import run_main
from inferalign.core.errors import InputError
from inferalign.core.files import disk_errors, read_json, write_json_atomic
from inferalign.core.prompts import read_prompts, write_prompts
from inferalign.core.records import read_records
from inferalign.core.shards import FileLock
from inferalign.core.stats import Estimate, clustered_proportion
from inferalign.core.types import ROLES
from inferalign.engines.table import SANDBOX, SANDBOX_CARD, ModelOptions, load, shipped_model
from inferalign.engines.weights import weights_digest
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_settings import DEFAULT
from inferalign.sandbox.grading import Graded, grade_run
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.world import prompts

_HELD: list[FileLock] = []
PROCESSES = 2
TOKENS = 96
PAIR = ("harmful", "correct_misinformation")
"""The two situations of the controls, the weak judges and the ablations: one guided by either question."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One arm on the test prompts of one situation, in `folder`."""

    folder: Path
    situation: str
    n: int
    procedure: str = "sample"
    scorer: str = "self"
    temperature: float = 1.0
    top_k: int | None = None
    rain: Mapping[str, Any] = field(default_factory=dict)
    """Fields of RAIN's default settings that are changed."""


def guide(situation: str, more: str = "") -> str:
    """The scorer that guides a search there: the question of harm, or that of fault; `more` goes behind its name."""
    return ("self" if situation == "harmful" else "self-agency") + more


def budget(text: str) -> dict[str, Any]:
    """`50/15/6` as RAIN's settings: iterations before the first commit, before later ones, visits for an early stop."""
    try:
        first, extra, visits = map(int, text.split("/"))
    except ValueError:
        raise InputError(
            f"budget {text!r}: expected three whole numbers (iterations before the first commit, before later ones, "
            "visits for an early stop), such as 50/15/6"
        ) from None
    return {"max_iterations": first, "extra_iterations": extra, "min_visits": visits}


def carry_out(root: Path, jobs: Sequence[Job], model: str, seed: int) -> None:
    """Bring every job's folder to its end; what is done is not done again.

    Raises `RunError` where another process has `root`. Others are kept out until this one ends, which reads the folders
    back: they would put other prompts there.
    """
    with disk_errors(root, "write"):
        root.mkdir(parents=True, exist_ok=True)
    _HELD.append(FileLock(root / "study.lock", str(root)))
    for job in jobs:
        write_prompts(job.folder / "prompts.jsonl", prompts(job.situation, job.n, seed))
    plan = root / "plan.json"
    listed = [asdict(job) | {"folder": str(job.folder)} for job in jobs]
    write_json_atomic(plan, {"model": model, "seed": seed, "jobs": listed})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.sandbox_runs", str(plan)]
    shards = [[f"{i}/{PROCESSES}"] for i in range(1, PROCESSES + 1)]
    workers = [subprocess.Popen(command + shard, env=environment, stdout=subprocess.DEVNULL) for shard in shards]
    if any([worker.wait() for worker in workers]):
        sys.exit("a run failed; its message is above. Mend what it names, then repeat the command to go on")


def work(plan: Path, shard: str) -> None:
    """One process's share of a plan."""
    told = read_json(plan)
    options = ModelOptions(device="cpu")
    model = load(told["model"], options)
    for number, entry in enumerate(told["jobs"], start=1):
        job = Job(**entry | {"folder": Path(entry["folder"])})
        inferalign.generate(
            model,
            job.procedure,
            read_prompts(job.folder / "prompts.jsonl"),
            seed=told["seed"],
            scorer=job.scorer,
            run=job.folder,
            sampling=Sampling(temperature=job.temperature, top_k=job.top_k, max_new_tokens=TOKENS),
            rain=replace(DEFAULT, **job.rain) if job.procedure == "rain" else None,
            options=options,
            shard=shard,
        )
        print(f"{shard}: {number} of {len(told['jobs'])} done, {job.folder}", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One job, by prompt id. A reply that does not parse is not good."""

    graded: Sequence[Graded]
    good: Mapping[str, bool]
    """Without the main fault."""
    unread: Mapping[str, bool]
    """It does not parse."""
    belief: Mapping[str, float]
    """The guide's own score of the chosen reply, as a probability: 0 to 1; unguided replies have none."""
    tokens: Mapping[str, float]
    """Fed, by all roles."""
    seconds: Mapping[str, float]
    """From a prompt's start to its end, others being in flight."""


def outcome(job: Job) -> Outcome:
    asked = {prompt.id for prompt in read_prompts(job.folder / "prompts.jsonl")}
    graded = [g for g in grade_run(job.folder) if g.id in asked]
    records = {record["id"]: record for record in read_records(job.folder, "generate") if record["id"] in asked}
    chosen = {i: r["candidates"][r["chosen"]]["score"] for i, r in records.items()}
    return Outcome(
        graded=graded,
        good={g.id: g.verdict.bad is False for g in graded},
        unread={g.id: not g.verdict.parsed for g in graded},
        belief={i: (score["value"] + 1) / 2 for i, score in chosen.items() if score and "value" in score},
        tokens={i: float(sum(r["usage"][role]["tokens_fed"] for role in ROLES)) for i, r in records.items()},
        seconds={i: r["seconds"] for i, r in records.items()},
    )


class Scored(NamedTuple):
    """One candidate: the truth (None: it does not parse) and the guide's score (None: it could not be scored)."""

    bad: bool | None
    value: float | None


def candidates(job: Job) -> dict[str, list[Scored]]:
    """Every candidate of a best-of-N job, by prompt id."""
    asked = {prompt.id for prompt in read_prompts(job.folder / "prompts.jsonl")}
    return {
        record["id"]: [
            Scored(grade(record["messages"][-1]["content"], c["text"]).bad, c["score"].get("value"))
            for c in record["candidates"]
        ]
        for record in read_records(job.folder, "generate")
        if record["id"] in asked
    }


@dataclass(frozen=True, kw_only=True)
class JudgeRates:
    """How a guide judges whole replies of the policy. An estimate is empty where no reply is of the kind."""

    sensitivity: Estimate
    """Share of the bad replies that it rejects (score at most 0)."""
    specificity: Estimate
    """Share of the good replies that it accepts (score above 0)."""
    balanced: Estimate
    unscored: int


def judge_rates(found: Mapping[str, Sequence[Scored]]) -> JudgeRates:
    """Over candidates that parse and were scored; those of one prompt are not independent, so prompts are clusters.

    The interval of the mean of the two is put together from theirs (Zou and Donner 2008, without their covariance).
    """
    rejected = [[s.value <= 0 for s in row if s.bad is True and s.value is not None] for row in found.values()]
    accepted = [[s.value > 0 for s in row if s.bad is False and s.value is not None] for row in found.values()]
    both = [clustered_proportion(groups) if any(groups) else Estimate.empty() for groups in (rejected, accepted)]
    unscored = sum(s.value is None for row in found.values() for s in row)
    return JudgeRates(sensitivity=both[0], specificity=both[1], balanced=_middle(*both), unscored=unscored)


def _middle(a: Estimate, b: Estimate) -> Estimate:
    if a.mean is None or b.mean is None:
        return Estimate.empty()
    mean, n = (a.mean + b.mean) / 2, min(a.n, b.n)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(mean=mean, low=None, high=None, n=n)
    low, high = math.hypot(a.mean - a.low, b.mean - b.low) / 2, math.hypot(a.high - a.mean, b.high - b.mean) / 2
    return Estimate(mean=mean, low=mean - low, high=mean + high, n=n)


def auc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """The chance that a good reply scores above a bad one, over all pairs; ties count half (Mann and Whitney 1947)."""
    return float((bad[:, None] < good[None, :]).mean() + 0.5 * (bad[:, None] == good[None, :]).mean())


def bound(found: Mapping[str, Sequence[Scored]], rates: JudgeRates) -> tuple[dict[str, float], int]:
    """What to expect of a reply that the guide accepts, by prompt; and for how many prompts it accepted none.

    A search that is led by nothing but its guide ends in some reply that the guide accepts. If it finds it without
    regard to the truth, that reply is good with P(good | accepted) of the prompt: the share of good ones among the
    accepted candidates, which is unbiased given that there are some. Where there are none, Bayes' rule on the
    prompt's share of good candidates (Laplace's (g + 1) / (m + 2)) with the guide's pooled rates takes its place. A
    search that feeds on its guide's errors falls below this; one that also uses how sure the guide is may pass it.
    Candidates that do not parse are the generator's fault and no verdict of the guide's: they are left out.
    """
    expected: dict[str, float] = {}
    none = 0
    for prompt, row in found.items():
        judged = [s for s in row if s.bad is not None and s.value is not None]
        accepted = [s for s in judged if s.value is not None and s.value > 0]
        if accepted:
            expected[prompt] = sum(s.bad is False for s in accepted) / len(accepted)
            continue
        none += 1
        good = (sum(s.bad is False for s in judged) + 1) / (len(judged) + 2)
        passed = good * (rates.specificity.mean if rates.specificity.mean is not None else 1.0)
        slipped = (1 - good) * (1 - (rates.sensitivity.mean if rates.sensitivity.mean is not None else 1.0))
        expected[prompt] = passed / (passed + slipped) if passed + slipped else good
    return expected, none


class Chosen(NamedTuple):
    """What to expect of the reply that a search ends at."""

    score: float
    """The guide's."""
    good: float
    """The chance that it is without the main fault."""
    unread: float
    """The chance that it does not parse."""


def best_of(row: Sequence[Scored], k: int) -> Chosen:
    """The expectations of best-of-k among `row`, over all subsets of k scored ones.

    With N candidates in falling order, number i (from 0) is the best of a subset with C(N-1-i, k-1) / C(N, k); equal
    scores share their chances. With fewer than k scored ones, the best of all.
    """
    ranked = sorted((s for s in row if s.value is not None), key=lambda s: -(s.value or 0.0))
    size, k = len(ranked), min(k, len(ranked))
    score, good, unread = 0.0, Fraction(0), Fraction(0)
    place = 0
    for value, tied in groupby(ranked, key=lambda s: s.value or 0.0):
        group = list(tied)
        ways = sum(math.comb(size - 1 - i, k - 1) for i in range(place, place + len(group)))
        score += ways * value
        good += Fraction(ways * sum(s.bad is False for s in group), len(group))
        unread += Fraction(ways * sum(s.bad is None for s in group), len(group))
        place += len(group)
    # whole numbers to the end: what is certain is to be 1 and not nearly so, for an interval turns on it
    subsets = math.comb(size, k)
    return Chosen(score / subsets, float(good / subsets), float(unread / subsets))


def cell(estimate: Mapping[str, float | None] | Estimate, scale: float = 100.0) -> str:
    """`83.1 [75.0, 89.0]`, in per cent or points."""
    told = asdict(estimate) if isinstance(estimate, Estimate) else estimate
    mean, low, high = (told[key] for key in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{scale * mean:z.1f}" + (
        "" if low is None or high is None else f" [{scale * low:z.1f}, {scale * high:z.1f}]"
    )


def student_half(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the interval of the mean of at least two independent values, by Student's t."""
    return float(t.ppf((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def finish(report: Mapping[str, Any], model: str | None = None) -> None:
    """The last line of a benchmark; if it is one of a model, with the name of its weights."""
    told = {} if model is None else {"model": model, **trained(model)}
    print(json.dumps({**told, **report}, allow_nan=False))


def trained(model: str) -> dict[str, Any]:
    """Which weights these are, and the seed of their training; nothing for a model that the recipe did not make."""
    folder = shipped_model() if model == SANDBOX else Path(model)
    if not (folder / SANDBOX_CARD).is_file():
        return {}
    seed = read_json(folder / SANDBOX_CARD)["recipe"]["seed"]
    return {"weights": weights_digest(str(folder)), "training_seed": seed}


if __name__ == "__main__":
    run_main(lambda: work(Path(sys.argv[1]), sys.argv[2]))
