"""A procedure seen only through its run folder: where its outputs rank among scores of the base model's own answers.

The reference is a `best-of-n:K` run of the same base model on the same prompts: not its choices but its K scored
candidates, which are plain draws. Both runs must have been scored by the same guide and drawn from different seeds,
because with one seed the draws of both are the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json
from inferalign.core.records import read_records
from inferalign.core.results import from_record
from inferalign.core.types import Score
from inferalign.theory.blackbox import OwnRanks, own_ranks
from inferalign.theory.calibration import Floats


def ranked(run: Path, reference: Path, seed: int) -> OwnRanks:
    """The outputs of `run` among the candidates' scores of `reference`, one output a prompt; seed: for ties.

    Raises `InputError` for folders that do not fit together and for outputs without a score, and `RunError` for what is
    no run folder. Candidates that could not be scored are left out of the reference.
    """
    for folder in (run, reference):
        if not (folder / "records").is_dir():
            raise RunError(f"there is no run folder at {folder}: give the --run folder of an `inferalign generate`")
        next(read_records(folder, "generate"), None)  # refuses records of another kind before their settings are read
    _check_fit(run, reference)
    outputs, pool = _outputs(run), reference_scores(reference)
    if lacking := sorted(outputs.keys() - pool.keys()):
        raise InputError(
            f"{reference} has no answers for {len(lacking)} prompts of {run}, the first {lacking[0]!r}: run "
            f"`inferalign generate --procedure best-of-n:100` on the same prompts file"
        )
    ids = sorted(outputs)
    return own_ranks(np.array([[outputs[name]] for name in ids]), [pool[name] for name in ids], ids, seed)


def reference_scores(reference: Path) -> dict[str, Floats]:
    """The candidates' scores of every prompt of a run, unscored ones left out; each a row [K]."""
    pool = {}
    for record in read_records(reference, "generate"):
        scores = [c.score.value for c in from_record(record).candidates if isinstance(c.score, Score)]
        if len(scores) < 2:
            raise InputError(
                f"{reference}: prompt {record['id']!r} has {len(scores)} scored candidates, and ranks need 2 at least: "
                "give a `best-of-n:K` run with K of 100 or so"
            )
        pool[record["id"]] = np.array(scores)
    return pool


def require_two_bases(runs: Sequence[Path], references: Sequence[Path]) -> None:
    """`InputError` unless two pairs of folders can test calibration: one procedure, two base models.

    With one base model on both sides, or two procedures, the comparison would tell nothing of calibration.
    """
    for flag, (first, second) in (("--from", runs), ("--reference", references)):
        if first.resolve() == second.resolve():
            raise InputError(
                f"both {flag} are {first}, which tests nothing: make the second pair with another base model, such as "
                "an early checkpoint"
            )
    one, two = (read_json(run / "config.json") for run in runs)
    if _method(one) != _method(two):
        raise InputError(
            f"{runs[0]} is {_name(one)} and {runs[1]} is {_name(two)}, and a test needs one procedure with one "
            f"setting: run `inferalign generate --procedure {_name(one)}` on the second base model too"
        )
    if _base(one) == _base(two):
        raise InputError(
            f"{runs[0]} and {runs[1]} have the same base model, which tests nothing: make the second pair with another "
            "base model, such as an early checkpoint"
        )


def _method(config: Any) -> dict[str, Any]:
    """What a procedure does: all that its run keeps of it but the base policy's and the reward's part."""
    procedure = config.get("procedure", {})
    return {key: value for key, value in procedure.items() if key not in ("sampling", "scorer", "guide")}


def _name(config: Any) -> str:
    return str(_at(config, ("procedure", "procedure")))


def _base(config: Any) -> Any:
    """The weights of a base model wherever they are known, since name, device and precision do not make another."""
    return _at(config, ("model", "weights")) or _at(config, ("model", "model"))


def _outputs(run: Path) -> dict[str, float]:
    outputs = {}
    for record in read_records(run, "generate"):
        result = from_record(record)
        score = result.candidates[result.chosen].score
        if not isinstance(score, Score):
            raise InputError(
                f"{run}: the answer to prompt {record['id']!r} has no score, so it has no rank: give a run whose "
                "procedure scores its answers, such as best-of-n"
            )
        outputs[record["id"]] = score.value
    if not outputs:
        raise InputError(f"{run} holds no answers: finish it with the same `inferalign generate` command")
    return outputs


def _check_fit(run: Path, reference: Path) -> None:
    ours, theirs = read_json(run / "config.json"), read_json(reference / "config.json")
    for what, path in (
        ("base model", ("model",)),
        ("chat format", ("chat",)),
        ("guide", ("procedure", "scorer")),
        ("sampling", ("procedure", "sampling")),
    ):
        if _at(ours, path) != _at(theirs, path):
            raise InputError(f"{run} and {reference} differ in their {what}: make both with the same one")
    if ours["seed"] == theirs["seed"]:
        raise InputError(
            f"{run} and {reference} share the seed {ours['seed']}, so their answers are the same draws: make the "
            "reference with another `--seed`"
        )


def _at(config: Any, path: Sequence[str]) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config
