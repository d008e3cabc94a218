"""What a trained checkpoint says of itself: `inferalign.json` for programs, and a model card for people.

A checkpoint is best under the procedure that it was trained for, and may be worse than the base model under another, so
the two travel together. The card is written by the training, without win rates, and completed by the comparison that
measures them. Whatever stands in it (a path, a scorer's name) is text: the model card shows it and never renders it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from inferalign.core.config import to_dict
from inferalign.core.errors import InputError, RunError
from inferalign.core.files import read_json, write_bytes_atomic, write_json_atomic
from inferalign.core.stats import Estimate
from inferalign.theory.procedures import parse_selection

CARD = "inferalign.json"
MODEL_CARD = "README.md"
SCHEMA = 1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class MeasuredWinRate:
    """One row of a comparison with the base model."""

    procedure: str
    """On both sides."""
    selector: str
    judge: str
    win_rate: Estimate
    kl: Estimate
    """Nats, on the same prompts."""
    ceiling: float
    """The largest win rate at this KL."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """How a checkpoint was made, and what was measured of it."""

    trained_for: str
    """The procedure to decode it with: `sample`, `best-of-n:4`, `worst-of-n:4`."""
    transform: str
    """The text form: `identity`, `exp:10`, `optimal`; for a baseline its name, such as `raw` or `standardised`."""
    beta: float
    """KL weight, in the units of the transform's normalised form."""
    anchors: int | None
    """K, the reference rollouts a prompt; None where none were used."""
    anchors_digest: str | None
    """Names the anchors' artefact."""
    base: str
    base_weights: str
    """The hash of the base model's weights."""
    reward: str
    """The scorer that was trained on."""
    sandbox: bool
    """Whether the base model is the embedded sandbox: then every number here is one on the sandbox."""
    seed: int
    kl: Estimate
    """Sequence KL to the base model in nats, on training prompts: the mean over the last tenth of the steps, each
    measured before its update (so 0 after one step); empty where not measured."""
    max_new_tokens: int | None = None
    """Tokens that an answer could have in training: KL and win rates are of answers so long."""
    measured: tuple[MeasuredWinRate, ...] = ()

    def __post_init__(self) -> None:
        parse_selection(self.trained_for)
        if not self.beta > 0:
            raise InputError(f"a card with beta {self.beta:g}: expected the KL weight of the training, above 0")

    @property
    def strength(self) -> float | None:
        """t of `exp:t`; None for another transform."""
        name, _, argument = self.transform.partition(":")
        return float(argument) if name == "exp" else None


def write_card(folder: Path, card: Card) -> None:
    """Write `inferalign.json` and a model card `README.md` into a checkpoint's folder, over what stands there."""
    write_json_atomic(folder / CARD, {"schema": SCHEMA, **to_dict(card), "t": card.strength})
    write_bytes_atomic(folder / MODEL_CARD, model_card(card, folder.resolve().name).encode())


def read_card(folder: Path) -> Card | None:
    """The card of a checkpoint, or None for a model without one. Raises `RunError` for one that cannot be used."""
    path = folder / CARD
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise RunError(f"{path} is no card of schema {SCHEMA}: train the checkpoint again with this version")
    values = {key: value for key, value in found.items() if key not in ("schema", "t")}
    try:
        rows = tuple(_filled(MeasuredWinRate, row) for row in values.pop("measured", ()))
        return replace(_filled(Card, values), measured=rows)
    except (TypeError, AttributeError) as error:  # a key that is missing or unknown, a value of another type
        raise RunError(f"{path} is damaged ({error}): restore it, or train the checkpoint again") from error


def _filled(kind: type[T], values: Mapping[str, Any]) -> T:
    return kind(**{key: Estimate(**value) if key in ("kl", "win_rate") else value for key, value in values.items()})


def with_measurements(card: Card, rows: tuple[MeasuredWinRate, ...]) -> Card:
    """The card with these rows in place of earlier ones of the same procedure, selector and judge."""

    def key(row: MeasuredWinRate) -> tuple[str, str, str]:
        return row.procedure, row.selector, row.judge

    new = {key(row) for row in rows}
    return replace(card, measured=(*(row for row in card.measured if key(row) not in new), *rows))


def model_card(card: Card, name: str) -> str:
    """The model card, in Markdown with a front matter that model hubs read."""
    front = {"library_name": "transformers", "base_model": card.base, "tags": ["inferalign", "trl"]}
    facts = {
        "trained for": escape(card.trained_for),
        "transform": escape(card.transform),
        "beta": f"{card.beta:.6g}",
        "anchors": "none" if card.anchors is None else _anchors(card),
        "reward": escape(card.reward),
        "base model": f"{escape(card.base)} ({escape(card.base_weights)})",
        "seed": str(card.seed),
        "tokens an answer, at most": "not known" if card.max_new_tokens is None else str(card.max_new_tokens),
        "sequence KL over the last tenth of the training, before each step, nats": _shown(card.kl, 1.0, 3),
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        "---",
        "",
        f"# {escape(name)}",
        "",
        f"Trained with inferalign (InfAlign-CTRL, arXiv 2412.19792) to be decoded by **{escape(card.trained_for)}**. "
        "Under another procedure it may be worse than its base model.",
        "",
    ]
    if card.sandbox:
        lines += [
            "Its base model is the sandbox's, a small world with known truth: these numbers say nothing of other "
            "models.",
            "",
        ]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    if card.measured:
        lines += [
            "Win rates against the base model under the same procedure, ties counting half, on the prompts that "
            "`inferalign compare` was given; mean [95 % interval over prompts].",
            "",
            "| procedure | selector | judge | win rate, % | KL, nats | ceiling at this KL, % | prompts |",
            "|---|---|---|---|---|---|---|",
            *map(_measured_row, card.measured),
            "",
        ]
    else:
        lines += ["No win rate has been measured: run `inferalign compare` with `--cards`.", ""]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text as it is, in a Markdown cell: no markup, no link (bare addresses become links too), no HTML, one line."""
    flat = html.escape(" ".join(text.split()), quote=False)
    marked = re.sub(r"([\\`*_{}\[\]#+!|~])", r"\\\1", flat)
    return re.sub(r"(?<=www)\.|:(?=//)|@", lambda found: f"&#{ord(found[0])};", marked)


def _anchors(card: Card) -> str:
    return f"{card.anchors:,} reference rollouts a prompt ({escape(card.anchors_digest or 'no digest')})"


def _measured_row(row: MeasuredWinRate) -> str:
    cells = (
        *(escape(text) for text in (row.procedure, row.selector, row.judge)),
        _shown(row.win_rate, 100.0, 1),
        _shown(row.kl, 1.0, 3),
        f"{100 * row.ceiling:.1f}",
        str(row.win_rate.n),
    )
    return f"| {' | '.join(cells)} |"


def _shown(estimate: Estimate, scale: float, digits: int) -> str:
    if estimate.mean is None:
        return "not measured"
    mean = f"{scale * estimate.mean:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"
