"""`inferalign sandbox pairs`: preference pairs from a run, by the oracle's grade."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Which pairs to make."""

    out: Path
    """The JSONL file to write, for `inferalign sandbox train-reward --pairs`."""
    per_prompt: int = 3
    """The most pairs that one prompt gives."""
    seed: int = 0
    """Which pairs are drawn from a prompt's candidates."""


def pairs(
    run: Annotated[Path, Parameter(name="RUN", help="A run folder with several candidates a prompt (random-of-n:4).")],
    /,
    *,
    options: PairsOptions,
) -> None:
    """Make preference pairs from the candidates of a run, by ground truth."""
    from inferalign.cli.tables import emit
    from inferalign.core.errors import InputError
    from inferalign.sandbox.graded_runs import UNREAD, graded_candidates
    from inferalign.sandbox.pairs import make_pairs, write_pairs

    graded = graded_candidates(run)
    made = make_pairs(graded, per_prompt=options.per_prompt, seed=options.seed)
    if not made.pairs:
        raise InputError(
            f"{run} gives no pairs ({made.ties} ties): expected a run with several different candidates a prompt, such "
            "as one of `inferalign generate --procedure random-of-n:4`"
        )
    write_pairs(options.out, made.pairs)
    unread = sum(candidate.score == UNREAD for _, row in graded for candidate in row)
    emit({"pairs": len(made.pairs), "ties": made.ties, "unread_or_cut": unread, "out": str(options.out)})
