"""From a policy's pool of answers to what win rates are computed from: each step a resumable run folder.

FOLDER/pool                    the answers: `inferalign generate --procedure random-of-n:M` of this policy
FOLDER/scores-reward-1c2d3e4f  a scorer's verdicts on them; another scorer gets a folder of its own
FOLDER/logprobs                log-probabilities under the policy and the base model
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from inferalign.core.config import to_dict
from inferalign.core.files import dump_json
from inferalign.core.jobs import QUIET, Progress
from inferalign.engines.table import LoadedModel
from inferalign.scorers.base import Scorer
from inferalign.winrate.pools import Pool, Verdicts, score_pool
from inferalign.winrate.rescore import log_ratios

POOL, LOGPROBS = "pool", "logprobs"


def scores_folder(folder: Path, scorer: Scorer) -> Path:
    """Where a scorer's verdicts on the pool in `folder` are kept."""
    digest = hashlib.sha256(dump_json(to_dict(scorer.describe()))).hexdigest()
    return folder / f"scores-{scorer.name}-{digest[:8]}"


def same_scorer(one: Scorer, other: Scorer) -> bool:
    """Whether two scorers judge alike by all that they say of themselves."""
    return one.name == other.name and to_dict(one.describe()) == to_dict(other.describe())


async def judged_pool(
    folder: Path,
    policy: LoadedModel,
    base: LoadedModel,
    selector: Scorer,
    judge: Scorer,
    *,
    only: Collection[str] | None = None,
    concurrency: int = 16,
    progress: Progress = QUIET,
) -> Pool:
    """Score the pool in `folder` by selector and judge, and re-score its tokens under policy and base model.

    only: the ids of the prompts to do this for; all that the pool has, without it.
    What the folder has already is read. With the base model itself as `policy` no model is asked: the ratio is 1.
    Raises `RunError` for folders that were made otherwise, `InputError` for a pool that cannot be used.
    """
    pool = folder / POOL

    async def scored(scorer: Scorer) -> dict[str, Verdicts]:
        place = scores_folder(folder, scorer)
        return await score_pool(pool, place, scorer, only=only, concurrency=concurrency, progress=progress)

    selected = await scored(selector)
    judged = selected if same_scorer(selector, judge) else await scored(judge)
    if policy is base:
        ratios = {prompt: np.zeros(verdicts.keys.size) for prompt, verdicts in selected.items()}
    else:
        place = folder / LOGPROBS
        ratios = await log_ratios(pool, place, policy, base, only=only, concurrency=concurrency, progress=progress)
    return Pool(selector=selected, judge=judged, log_ratios=ratios)
