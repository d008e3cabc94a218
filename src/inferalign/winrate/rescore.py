"""Sequence log-probabilities of given answers under a model, and the Monte Carlo KL that they give.

The log-probability of an answer is that of all its tokens after the prompt, and of its end where it ended: of the event
that *some* end token came next, since an answer does not say which one. One that was cut at a length has no end to
count. All are at temperature 1 under the full softmax, as in training: a pool for them is drawn so.

An engine is asked by the one primitive that all engines have, `label_logprobs`: the prefixes of an answer are a chain,
which a prefix engine computes in one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.core.jobs import QUIET, Progress
from inferalign.core.types import Completion, RoleUsage, StopReason, TokenIds
from inferalign.engines.base import Engine
from inferalign.engines.table import LoadedModel
from inferalign.winrate.pools import Answers, beside, read_answers

Floats = NDArray[np.float64]

KIND = "logprobs"


async def sequence_logprob(
    engine: Engine, prefix: TokenIds, answer: Completion, end_ids: frozenset[int], usage: RoleUsage
) -> float:
    """log p(answer | prefix) in nats, the end of an answer that ended (`StopReason.END`) included.

    Raises `ContextOverflow` when prefix and answer do not fit the engine's context.
    """
    tokens, ends = answer.token_ids, sorted(end_ids)
    ended = answer.stop is StopReason.END
    labels = sorted({*tokens, *(ends if ended else ())})
    if not labels:
        return 0.0
    place = {token: i for i, token in enumerate(labels)}
    prefixes = [prefix + tokens[:taken] for taken in range(len(tokens) + ended)]
    rows = np.array([row.logprobs for row in await engine.label_logprobs(prefixes, labels, usage)])
    total = sum(float(rows[i, place[token]]) for i, token in enumerate(tokens))
    if ended:
        total += float(np.logaddexp.reduce(rows[-1, [place[token] for token in ends]]))
    return total


def require_ends(model: LoadedModel) -> None:
    """Raises `InputError` for a chat format whose answers end at a text: the tokens of that end are not kept."""
    if model.chat.stop_strings or not model.chat.end_ids:
        raise InputError(
            f"{model.engine.name} has no chat template, so its answers end at a text and their probability cannot be "
            "told: give a template whose turns end in a token (--chat-template FILE)"
        )


async def log_ratios(
    pool: Path,
    folder: Path,
    policy: LoadedModel,
    base: LoadedModel,
    *,
    only: Collection[str] | None = None,
    concurrency: int = 16,
    progress: Progress = QUIET,
) -> dict[str, Floats]:
    """log pi(y) - log p(y) in nats of the answers in `policy`'s pool (`only` to these prompts), by id; each a row [M].

    Both log-probabilities are kept in the run folder `folder`, and read there the next time. Raises `InputError` for a
    pool that was not drawn at temperature 1 from the full distribution, or not by the policy.
    """
    require_ends(policy)
    require_ends(base)
    _check_pool(pool, policy)
    answers = read_answers(pool, only)

    async def rescored(each: Answers) -> Mapping[str, Any]:
        usage = RoleUsage()
        found = {"policy": await _logprobs(policy, each, usage), "base": await _logprobs(base, each, usage)}
        return {**found, "usage": {"tokens_fed": usage.tokens_fed}}

    decides = {"policy": dict(policy.engine.describe()), "base": dict(base.engine.describe())}
    records = await beside(
        pool, folder, answers, rescored, decides, kind=KIND, concurrency=concurrency, progress=progress
    )
    return {name: np.array(record["policy"]) - np.array(record["base"]) for name, record in records.items()}


async def _logprobs(model: LoadedModel, each: Answers, usage: RoleUsage) -> list[float]:
    """One after the other: the next answer finds the prompt, and what the engine kept of the last one, computed."""
    prefix = model.chat.prompt_ids(each.prompt)
    found = [await sequence_logprob(model.engine, prefix, c, model.chat.end_ids, usage) for c in each.completions]
    model.engine.forget(prefix)
    return found


def _check_pool(pool: Path, policy: LoadedModel) -> None:
    config = read_json(pool / "config.json")
    sampling = config["procedure"]["sampling"]
    if sampling["temperature"] != 1.0 or sampling["top_k"] is not None:
        raise InputError(
            f"{pool} was drawn at temperature {sampling['temperature']:g} and top-k {sampling['top_k']}, and a "
            "sequence KL is that of the models themselves: draw it with --temperature 1 and without --top-k"
        )
    if config["model"].get("weights") != policy.engine.describe().get("weights"):
        raise InputError(f"{pool} was drawn from another model than {policy.engine.name}: give the one that drew it")
