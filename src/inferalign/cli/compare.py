"""`inferalign compare`: trained models under decoding procedures, against their base model, at their measured KL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferalign.cli.compare_request import (
    CompareOptions,
    Entry,
    check_sweeps,
    known_betas,
    known_length,
    parse_entries,
    parse_procedures,
    read_cards,
    refuse_one_scorer,
    require_same,
)
from inferalign.cli.own_folder import write_asked
from inferalign.core.errors import InputError

if TYPE_CHECKING:
    from inferalign.core.types import Prompt
    from inferalign.engines.table import LoadedModel
    from inferalign.scorers.base import Scorer
    from inferalign.winrate.card import Card
    from inferalign.winrate.compare import Policy
    from inferalign.winrate.pools import Pool

VERB = "compare"


def compare(options: CompareOptions) -> None:
    """Win rates of trained models against their base model, under decoding procedures, at their measured KL."""
    from inferalign.cli import compare_output as output
    from inferalign.cli.generate import at_once
    from inferalign.cli.tables import emit, show
    from inferalign.core.files import write_json_atomic
    from inferalign.core.prompts import read_prompts
    from inferalign.winrate.ceiling import ceilings
    from inferalign.winrate.compare import compare as compare_all
    from inferalign.winrate.compare import measure

    entries, procedures = parse_entries(options.policies), parse_procedures(options)
    check_sweeps(entries, options.kl)
    require_same(options, VERB)
    prompts, cards = read_prompts(options.prompts), read_cards(entries)
    betas, tokens = known_betas(entries, cards), known_length(options, entries, cards)
    try:
        with at_once():
            base, pools, by_selector = asyncio.run(_pools(options, entries, cards, prompts, tokens))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise KeyboardInterrupt from None
    curves = ceilings(procedures, base, judged_by_selector=by_selector)
    policies = grouped(entries, pools, betas)
    measured = [measure(policy, base, procedures) for policy in policies]
    found = compare_all(measured, curves, options.kl)
    said = {
        "run": str(options.run),
        "base": options.base,
        "selector": options.selector,
        "judge": options.judge,
        "prompts": len(prompts),
        "m": options.m,
        "base_m": options.base_m,
        "max_new_tokens": tokens,
        "seed": options.seed,
        "base_unscored": base.unscored,
        **found.as_json(),
    }
    write_json_atomic(options.run / "metrics.json", said)
    output.write_rows(options.run / "rows.csv", found)
    output.write_prompts(options.run / "prompts.csv", measured)
    figure = output.write_curves(options.run / "compare.svg", found, curves)
    if options.cards:
        for one, pool in zip(entries, pools, strict=True):
            alone = grouped([one], [pool], betas)
            rows = compare_all([measure(alone[0], base, procedures)], curves).rows
            output.complete_card(Path(one.model), rows, options.selector, options.judge)
    for table in output.tables(found):
        show(table)
    for warning in output.above_in_words(found):
        show(warning)
    emit({**said, "figure": figure})


def grouped(entries: Sequence[Entry], pools: Sequence[Pool], betas: Mapping[str, float | None]) -> list[Policy]:
    """Policies in the order of their first mention, each with the pools of its training seeds."""
    from inferalign.winrate.compare import Policy

    by_name: dict[str, list[Pool]] = {}
    for one, pool in zip(entries, pools, strict=True):
        by_name.setdefault(one.name, []).append(pool)
    first = {one.name: one for one in reversed(entries)}
    return [Policy(first[name].recipe, first[name].point, tuple(found), betas[name]) for name, found in by_name.items()]


async def _pools(
    options: CompareOptions,
    entries: Sequence[Entry],
    cards: Sequence[Card | None],
    prompts: Sequence[Prompt],
    tokens: int,
) -> tuple[Pool, list[Pool], bool]:
    """The base model's pool, one a policy, and whether the judge is the selector."""
    from inferalign.core.config import to_dict
    from inferalign.core.seeds import derive
    from inferalign.engines.table import is_sandbox, load
    from inferalign.scorers.table import build_scorer
    from inferalign.winrate.rescore import require_ends
    from inferalign.winrate.run import same_scorer

    base = load(options.base, options.engine)
    require_ends(base)
    weights = str(base.engine.describe()["weights"])
    for one, card in zip(entries, cards, strict=True):
        if card is not None and ":" in weights and ":" in card.base_weights and card.base_weights != weights:
            raise InputError(
                f"{one.model} was trained from other weights than {options.base} ({card.base}, {card.base_weights}): "
                "KL and win rates are against the model that a training started from, give that one"
            )
    # Both judge with the base model where they need one: what decides must not change with what is judged.
    selector, judge = (
        build_scorer(
            text, engine=base.engine, chat=base.chat, sandbox=is_sandbox(base.engine.name), options=options.engine
        )
        for text in (options.selector, options.judge)
    )
    if same_scorer(selector, judge):
        refuse_one_scorer(options)
    seed = derive(options.seed, "base")
    of_base = await _pool(options, "base", base, base, (selector, judge), prompts, options.base_m, tokens, seed)
    write_asked(options.run, {"verb": VERB, **to_dict(options)})  # once the folder has taken the base model's pool
    pools, seen = [], dict.fromkeys((one.name for one in entries), 0)
    models: dict[tuple[str, str], str] = {}
    for one in entries:
        seen[one.name] += 1
        policy = load(one.model, options.engine)
        if policy.chat.describe() != base.chat.describe():
            raise InputError(
                f"{one.model} has another tokenizer or chat template than {options.base}, so that its answers have no "
                "KL to it: give the model that it was trained from"
            )
        same = one.name, str(policy.engine.describe()["weights"])
        if same in models:
            raise InputError(
                f"{one.model} has the weights of {models[same]}, and both are called {one.name!r}: training seeds "
                "differ, so give each model once"
            )
        models[same] = one.model
        label = f"policy-{re.sub('[^A-Za-z0-9.@_-]', '-', one.name)}-{seen[one.name]}"
        seed = derive(options.seed, "policy")
        pools.append(await _pool(options, label, policy, base, (selector, judge), prompts, options.m, tokens, seed))
    return of_base, pools, same_scorer(selector, judge)


async def _pool(
    options: CompareOptions,
    label: str,
    policy: LoadedModel,
    base: LoadedModel,
    scorers: tuple[Scorer, Scorer],
    prompts: Sequence[Prompt],
    count: int,
    tokens: int,
    seed: int,
) -> Pool:
    """Draw, score and re-score one policy's answers, each as far as its folder has not got."""
    from inferalign import api
    from inferalign.cli.progress import Bar
    from inferalign.procedures.base import Sampling
    from inferalign.winrate.run import POOL, judged_pool, same_scorer

    folder = options.run / label
    with Bar(f"{label}: {count} answers a prompt", len(prompts)) as bar:
        await api.agenerate(
            policy,
            f"random-of-n:{count}",
            prompts,
            seed=seed,
            run=folder / POOL,
            sampling=Sampling(max_new_tokens=tokens),
            concurrency=options.concurrency,
            progress=bar,
        )
    passes = 1 + (not same_scorer(*scorers)) + (policy is not base)
    with Bar(f"{label}: scores", passes * len(prompts)) as bar:
        asked = {prompt.id for prompt in prompts}  # the folder may have others, of an earlier comparison
        return await judged_pool(
            folder, policy, base, *scorers, only=asked, concurrency=options.concurrency, progress=bar
        )
