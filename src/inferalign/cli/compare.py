"""`inferalign compare`: trained models under decoding procedures, against their base model, at their measured KL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from inferalign.core.errors import InputError
from inferalign.engines.table import ModelOptions

if TYPE_CHECKING:
    from inferalign.core.types import Prompt
    from inferalign.engines.table import LoadedModel
    from inferalign.scorers.base import Scorer
    from inferalign.theory.procedures import OfN
    from inferalign.winrate.card import Card
    from inferalign.winrate.compare import Policy
    from inferalign.winrate.pools import Pool


@Parameter(name="*")
@dataclass(frozen=True)
class CompareOptions:
    """Everything that `compare` takes."""

    base: str
    """The model that training started from: `sandbox`, a transformers model directory, or a hub id."""
    policies: Annotated[list[str], Parameter(negative="")]
    """Trained models, each DIR, RECIPE=DIR or RECIPE@POINT=DIR, the first being what the others are held against; one
    name for several: training seeds, averaged.
    """
    _: KW_ONLY
    prompts: Path
    """JSONL, one object a line with `id` and `prompt` or `messages`: held-out ones."""
    run: Path
    """The folder to write; an unfinished comparison is taken up there, and a new policy or judge added to it."""
    procedures: str = "sample,best-of-n:4,worst-of-n:4"
    """Decoding procedures, on both sides alike: `sample`, `best-of-n:N`, `worst-of-n:N`."""
    selector: str = "reward"
    """What the procedures choose by: `reward` (the sandbox's), `reward:DIR`, `self`, a template (FILE.toml)."""
    judge: str = "oracle"
    """What decides who wins: `oracle` (the sandbox's truth) or another scorer; not the selector."""
    m: int = 16
    """Answers a prompt and policy, one pool for every procedure: N of each can be up to it."""
    base_m: int = 64
    """Answers a prompt of the base model, which every contest and the theory curves rest on: 2 N at least."""
    kl: float | None = None
    """Compare recipes at this KL (nats) too, each interpolated between the points of its sweep."""
    max_new_tokens: int | None = None
    """Tokens an answer may have before it is cut; without it, as many as the policies were trained with, or 256."""
    seed: int = 0
    """Every draw is derived from it; base model and policies get different ones, policies the same."""
    cards: Annotated[bool, Parameter(negative="")] = False
    """Write what was measured into each policy's `inferalign.json` and model card."""
    allow_guide_as_judge: Annotated[bool, Parameter(negative="")] = False
    """Let one scorer select and judge: then nothing independent says that the answers are better."""
    allow_oracle_guide: Annotated[bool, Parameter(negative="")] = False
    """Let the sandbox's ground truth be the selector: the best that any selector could do, not a result."""
    concurrency: int = 16
    """Prompts in flight: they share the model's passes, and change no answer."""
    engine: Annotated[ModelOptions, Parameter(name="*")] = field(default_factory=ModelOptions)


SEEDS_APART = 1.25
"""The largest beta of one name's seeds over the smallest: a controller (`--kl-gain`) takes each to another."""


class Entry(NamedTuple):
    """One trained model of the command line."""

    recipe: str
    point: str | None
    model: str

    @property
    def name(self) -> str:
        return self.recipe if self.point is None else f"{self.recipe}@{self.point}"


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
    prompts, cards = read_prompts(options.prompts), read_cards(entries)
    betas, tokens = known_betas(entries, cards), known_length(options, cards)
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
    emit({**said, "figure": figure})


def parse_entries(texts: Sequence[str]) -> list[Entry]:
    """The policies. Raises `InputError` for folders that share a name by chance: they are no training seeds."""
    unnamed = [Path(text).name for text in texts if "=" not in text]
    if twice := [name for name in unnamed if unnamed.count(name) > 1]:
        raise InputError(
            f"two policies are folders called {twice[0]!r}: give each a name, RECIPE=DIR, one name only to training "
            "seeds of one recipe"
        )
    return [entry(text) for text in texts]


def entry(text: str) -> Entry:
    """`DIR`, `RECIPE=DIR` or `RECIPE@POINT=DIR`. Raises `InputError` for an empty part."""
    name, given, model = text.partition("=")
    if not given:
        name, model = Path(text).name, text
    recipe, at, point = name.partition("@") if given else (name, "", "")
    if not (recipe and model) or bool(at) != bool(point):
        raise InputError(f"policy {text!r}: expected DIR, RECIPE=DIR or RECIPE@POINT=DIR, such as ctrl@0.1=runs/ctrl")
    return Entry(recipe, point or None, model)


def parse_procedures(options: CompareOptions) -> dict[str, OfN]:
    """The procedures by name. Raises `InputError` for what they, the pools' sizes or the scorers cannot be."""
    from inferalign.theory.procedures import parse_selection

    found = [parse_selection(text.strip()) for text in options.procedures.split(",")]
    largest = max(procedure.n for procedure in found)
    if options.m < max(largest, 2):
        raise InputError(f"--m {options.m} is too small a pool for N = {largest}: give --m {max(largest, 2)} or more")
    if options.base_m < max(2 * largest, 4):
        raise InputError(f"--base-m {options.base_m} is too small: give --base-m {max(2 * largest, 4)} or more")
    if options.selector == "oracle" and not options.allow_oracle_guide:
        raise InputError(
            "the procedures would choose by the oracle, which knows the truth they are measured by: give --selector "
            "reward, or --allow-oracle-guide to measure the best any selector could do"
        )
    if options.selector == options.judge:
        refuse_one_scorer(options)
    return {procedure.name: procedure for procedure in found}


def refuse_one_scorer(options: CompareOptions) -> None:
    if not options.allow_guide_as_judge:
        raise InputError(
            f"{options.selector!r} would be selector and judge in one, so that nothing independent decides: give "
            "another --judge, or --allow-guide-as-judge to see what training did to its own reward"
        )


def read_cards(entries: Sequence[Entry]) -> list[Card | None]:
    """Each policy's card. Raises `ModelError` for a policy that is not there, before anything is drawn."""
    from inferalign.engines.table import SANDBOX
    from inferalign.engines.weights import check_folder
    from inferalign.winrate.card import read_card

    for one in entries:
        if one.model.partition(":")[0] != SANDBOX:
            check_folder(one.model)
    return [read_card(Path(one.model)) for one in entries]


def known_length(options: CompareOptions, cards: Sequence[Card | None]) -> int:
    """Tokens of an answer. Raises `InputError` where the policies were trained with different lengths."""
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    lengths = {card.max_new_tokens for card in cards if card is not None and card.max_new_tokens is not None}
    if len(lengths) > 1:
        raise InputError(
            f"the policies were trained with answers of {', '.join(map(str, sorted(lengths)))} tokens: say by "
            "--max-new-tokens how long they may be here"
        )
    return next(iter(lengths), 256)


def known_betas(entries: Sequence[Entry], cards: Sequence[Card | None]) -> dict[str, float | None]:
    """By policy's name, the mean beta of its models' cards; None where one has no card.

    None also where it is not in units of the win rate: under another transform than identity, and without calibration.
    Raises `InputError` when recipes differ, or betas by more than a controller moves them: then they are no training
    seeds of one recipe.
    """
    by_name: dict[str, list[Card | None]] = {}
    for one, card in zip(entries, cards, strict=True):
        by_name.setdefault(one.name, []).append(card)
    betas: dict[str, float | None] = {}
    for name, found in by_name.items():
        known = [card for card in found if card is not None]
        recipes = sorted({f"{card.transform} for {card.trained_for}" for card in known})
        several = sorted({card.beta for card in known})
        apart = len(recipes) > 1 or (several and several[-1] > SEEDS_APART * several[0])
        if apart:
            said = ", ".join(recipes) if len(recipes) > 1 else "beta " + ", ".join(f"{beta:g}" for beta in several)
            raise InputError(
                f"the policies named {name!r} were trained with {said}, and one name is for seeds of one training: "
                f"name each {name}@POINT=DIR"
            )
        comparable = known and len(known) == len(found) and all(card.transform == "identity" for card in known)
        betas[name] = sum(card.beta for card in known) / len(known) if comparable else None
    return betas


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
    from inferalign.winrate.run import POOL, judged_pool

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
    passes = 1 + (scorers[0] is not scorers[1]) + (policy is not base)
    with Bar(f"{label}: scores", passes * len(prompts)) as bar:
        return await judged_pool(folder, policy, base, *scorers, concurrency=options.concurrency, progress=bar)
