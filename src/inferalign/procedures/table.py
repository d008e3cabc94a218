"""Procedures by their text form: `sample`, `best-of-n:4`, `worst-of-n:4`, `random-of-n:4`, `rain`, `rain:paper`.

One line a procedure. What it is made of and how it runs is its own file's business; importing this one imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean, load, resolve
from inferalign.procedures.base import Parts, Procedure, Sampling
from inferalign.procedures.rain_settings import SETTINGS, RainSettings
from inferalign.scorers.base import TRUTHS, Scorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

Argument = int | str | None


def no_argument(text: str, argument: str | None, example: str) -> None:
    if argument is not None:
        raise InputError(f"procedure {text!r}: `{example}` takes nothing after a colon: give `{example}`")


def a_count(text: str, argument: str | None, example: str) -> int:
    if argument is None or not (argument.isascii() and argument.isdigit()) or int(argument) < 1:
        raise InputError(f"procedure {text!r}: expected a number of draws of at least 1: give for example `{example}`")
    return int(argument)


def a_setting(text: str, argument: str | None, example: str) -> str:
    if argument is not None:
        resolve(SETTINGS, argument, f"setting of {example}")
    return argument or "default"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One procedure, before it is made."""

    maker: str
    """`"module:function"`, called with the parts and the argument."""
    example: str
    """How to write it."""
    argument: Callable[[str, str | None, str], Argument]
    """Reads what follows the colon (None: there is no colon), given the whole text and the example."""
    guided: bool
    """Whether a scorer takes part; without one, a model need not be able to judge."""


OF_N = "inferalign.procedures.best_of_n"
PROCEDURES: dict[str, Kind] = {
    "sample": Kind(maker="inferalign.procedures.sample:make", example="sample", argument=no_argument, guided=False),
    "best-of-n": Kind(maker=f"{OF_N}:make_best", example="best-of-n:4", argument=a_count, guided=True),
    "worst-of-n": Kind(maker=f"{OF_N}:make_worst", example="worst-of-n:4", argument=a_count, guided=True),
    "random-of-n": Kind(maker=f"{OF_N}:make_random", example="random-of-n:4", argument=a_count, guided=False),
    "rain": Kind(maker="inferalign.procedures.rain:make", example="rain", argument=a_setting, guided=True),
}


def parse(text: str) -> tuple[str, Argument]:
    """`best-of-n:4` -> ("best-of-n", 4), `rain:paper` -> ("rain", "paper"), `sample` -> ("sample", None).

    Raises `UnknownName` with a did-you-mean, and `InputError` for a missing or unusable part after the colon.
    """
    name, colon, argument = text.partition(":")
    kind = PROCEDURES.get(name)
    if kind is None:
        known = ", ".join(kind.example for kind in PROCEDURES.values())
        raise UnknownName(
            f"unknown procedure {text!r}.{did_you_mean(name, PROCEDURES)} Give one of: {known}, rain:paper."
        )
    return name, kind.argument(text, argument if colon else None, kind.example)


def rain_settings(text: str, overrides: Mapping[str, Any]) -> RainSettings:
    """The named setting of `rain` or `rain:paper`, with single fields (flags) changed; None changes nothing."""
    name, argument = parse(text)
    if name != "rain":
        raise InputError(f"procedure {text!r} has no search budget: search flags go with `rain` or `rain:paper`")
    return replace(SETTINGS[str(argument)], **{k: v for k, v in overrides.items() if v is not None})


def build(
    text: str,
    *,
    engine: Engine,
    chat: ChatFormat,
    scorer: Scorer | None,
    seed: int,
    sampling: Sampling,
    rain: RainSettings | None = None,
    encoder: str | None = None,
    trees: Path | None = None,
    allow_oracle_guide: bool = False,
) -> Procedure:
    """The procedure that `text` names, ready for prompts.

    `rain` replaces the named setting (see `rain_settings`), `encoder` names a sentence-transformers model for the
    search's similarities, `trees` a folder for its trees. The sandbox's oracle is ground truth: as a guide it is
    refused unless asked for.
    """
    name, argument = parse(text)
    kind = PROCEDURES[name]
    if kind.guided and scorer is not None and scorer.name in TRUTHS and not allow_oracle_guide:
        raise InputError(
            f"{text} would be guided by the oracle, which knows the truth it is measured by: give --scorer self, or "
            "--allow-oracle-guide to measure the best any judge could do"
        )
    parts = Parts(
        text=text,
        engine=engine,
        chat=chat,
        scorer=scorer,
        seed=seed,
        sampling=sampling,
        rain=rain,
        encoder=encoder,
        trees=trees,
    )
    made: Procedure = load(kind.maker)(parts, argument)
    return made
