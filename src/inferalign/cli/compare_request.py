"""What `compare` was asked: its options, and what can be known to be wrong with them before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from inferalign.cli.own_folder import CONFIG, require_own
from inferalign.core.errors import InputError
from inferalign.engines.table import SANDBOX, ModelOptions, delta_folder

if TYPE_CHECKING:
    from inferalign.theory.procedures import OfN
    from inferalign.winrate.card import Card


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
    judge: str = "oracle-quality"
    """What decides who wins, not the selector: `oracle-quality` (the sandbox's truth, graded), `oracle` (the main fault
    alone, under which most answers tie) or another scorer."""
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


def parse_entries(texts: Sequence[str]) -> list[Entry]:
    """The policies. Raises `InputError` for folders that share a name by chance: they are no training seeds."""
    unnamed = [Path(text).name for text in texts if "=" not in text or Path(text).is_dir()]
    if twice := [name for name in unnamed if unnamed.count(name) > 1]:
        raise InputError(
            f"two policies are folders called {twice[0]!r}: give each a name, RECIPE=DIR, one name only to training "
            "seeds of one recipe"
        )
    found = [entry(text) for text in texts]
    named = {entry(text).name for text in texts if "=" in text and not Path(text).is_dir()}
    if both := [name for name in unnamed if name in named]:
        raise InputError(
            f"one policy is named {both[0]!r}, and the folder of another is called so: give each a name, RECIPE=DIR, "
            "one name only to training seeds of one recipe"
        )
    if again := [one for at, one in enumerate(found) if one in found[:at]]:
        raise InputError(f"{again[0].model} stands twice as {again[0].name!r}: training seeds differ, give each once")
    return found


def check_sweeps(entries: Sequence[Entry], kl: float | None) -> None:
    """Raises `InputError` for a KL between whose two points no recipe has a sweep."""
    points = {name: {one.point for one in entries if one.recipe == name} for name in (one.recipe for one in entries)}
    if kl is not None and max(map(len, points.values())) < 2:
        raise InputError(
            f"--kl {kl:g} interpolates a recipe between points of its sweep, and no recipe here has two: name the "
            "trainings of one recipe at several betas RECIPE@POINT=DIR, such as ctrl@0.1=runs/a ctrl@0.2=runs/b"
        )


def entry(text: str) -> Entry:
    """`DIR`, `RECIPE=DIR` or `RECIPE@POINT=DIR`. Raises `InputError` for an empty part.

    What is a directory as it stands is one, whatever characters are in its name.
    """
    if Path(text).is_dir():
        return Entry(Path(text).name, None, text)
    name, given, model = text.partition("=")
    if not given:
        name, model = Path(text).name, text
    recipe, at, point = name.partition("@") if given else (name, "", "")
    if not (recipe and model) or bool(at) != bool(point):
        raise InputError(f"policy {text!r}: expected DIR, RECIPE=DIR or RECIPE@POINT=DIR, such as ctrl@0.1=runs/ctrl")
    return Entry(recipe, point or None, model)


def parse_procedures(options: CompareOptions) -> dict[str, OfN]:
    """The procedures by name. Raises `InputError` for what they, the pools' sizes or the scorers cannot be."""
    from inferalign.scorers.base import TRUTHS
    from inferalign.theory.policies import RESOLVED_KL
    from inferalign.theory.procedures import parse_selection

    found = [parse_selection(text.strip()) for text in options.procedures.split(",")]
    largest = max(procedure.n for procedure in found)
    if options.m < max(largest, 2):
        raise InputError(f"--m {options.m} is too small a pool for N = {largest}: give --m {max(largest, 2)} or more")
    if options.base_m < max(2 * largest, 4):
        raise InputError(f"--base-m {options.base_m} is too small: give --base-m {max(2 * largest, 4)} or more")
    if options.kl is not None and not 0 < options.kl < RESOLVED_KL:
        raise InputError(f"--kl {options.kl:g}: expected nats above 0 and below {RESOLVED_KL:g}, such as --kl 0.5")
    if options.selector in TRUTHS and not options.allow_oracle_guide:
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


def require_same(options: CompareOptions, verb: str) -> None:
    """Raises `InputError` for another command's folder, or one of another seed: its pools know only derived ones."""
    from inferalign.core.files import read_json

    require_own(options.run, verb)
    before = read_json(options.run / CONFIG)["seed"] if (options.run / CONFIG).is_file() else options.seed
    if before != options.seed:
        raise InputError(
            f"{options.run} was made with --seed {before}, and {options.seed} is given: give --seed {before} to go on "
            "with it, or name another --run"
        )


def read_cards(entries: Sequence[Entry]) -> list[Card | None]:
    """Each policy's card. Raises `ModelError` for a policy that is not there, before anything is drawn."""
    from inferalign.core.lookup import load
    from inferalign.winrate.card import read_card

    for one in entries:
        name, colon, delta = one.model.partition(":")
        if name != SANDBOX:
            load("inferalign.engines.weights:check_there")(one.model)
        elif colon:
            delta_folder(delta)
    return [read_card(Path(one.model)) for one in entries]


def known_length(options: CompareOptions, entries: Sequence[Entry], cards: Sequence[Card | None]) -> int:
    """Tokens of an answer. Raises `InputError` where the policies were trained with different lengths."""
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    said = [card.max_new_tokens for card in cards if card is not None]
    said += [_length_of(one.model) for one in entries if one.model.startswith(f"{SANDBOX}:")]
    lengths = {length for length in said if length is not None}
    if len(lengths) > 1:
        raise InputError(
            f"the policies were trained with answers of {', '.join(map(str, sorted(lengths)))} tokens: say by "
            "--max-new-tokens how long they may be here"
        )
    return next(iter(lengths), 256)


def _length_of(delta: str) -> int | None:
    """Tokens that an answer had in the training of a difference to the sandbox model, where its facts say so."""
    from inferalign.core.files import read_json

    found = read_json(delta_folder(delta.partition(":")[2]) / "delta.json")
    try:
        return int(found["facts"]["plan"]["tokens"])
    except (KeyError, TypeError):  # a delta of other origin, or a damaged one, which loading it will say
        return None


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
