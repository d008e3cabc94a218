"""Procedures by their text form: `sample`, `best-of-n:4`, `worst-of-n:4`, `random-of-n:4`, `rain`, `rain:paper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from inferalign.core.errors import InputError, UnknownName
from inferalign.core.lookup import did_you_mean, load, resolve
from inferalign.procedures.base import Procedure, Sampling
from inferalign.procedures.rain_settings import SETTINGS, RainSettings
from inferalign.scorers.base import Scorer

if TYPE_CHECKING:
    from inferalign.engines.base import Engine
    from inferalign.engines.chat import ChatFormat

EXAMPLES: dict[str, str] = {
    "sample": "sample",
    "best-of-n": "best-of-n:4",
    "worst-of-n": "worst-of-n:4",
    "random-of-n": "random-of-n:4",
    "rain": "rain",
}
"""Each procedure's name, and how to write it."""


def parse(text: str) -> tuple[str, int | str | None]:
    """`best-of-n:4` -> ("best-of-n", 4), `rain:paper` -> ("rain", "paper"), `sample` -> ("sample", None).

    Raises `UnknownName` with a did-you-mean, and `InputError` for a missing or unusable part after the colon.
    """
    name, colon, argument = text.partition(":")
    if name not in EXAMPLES:
        near = did_you_mean(name, EXAMPLES)
        raise UnknownName(f"unknown procedure {text!r}.{near} Give one of: {', '.join(EXAMPLES.values())}, rain:paper.")
    example = EXAMPLES[name]
    if name == "sample":
        if colon:
            raise InputError(f"procedure {text!r}: `sample` takes nothing after a colon: give `sample`")
        return name, None
    if name == "rain":
        if colon:
            resolve(SETTINGS, argument, "setting of rain")
        return name, argument if colon else "default"
    if not (argument.isascii() and argument.isdigit()) or int(argument) < 1:
        raise InputError(f"procedure {text!r}: expected a number of draws of at least 1: give for example `{example}`")
    return name, int(argument)


def rain_settings(text: str, overrides: Mapping[str, Any]) -> RainSettings:
    """The named setting of `rain` or `rain:paper`, with single fields (flags) changed; None changes nothing."""
    from dataclasses import replace

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
    allow_oracle_guide: bool = False,
) -> Procedure:
    """The procedure that `text` names, ready for prompts.

    `rain` replaces the named setting (see `rain_settings`), `encoder` names a sentence-transformers model for the
    search's similarities. The sandbox's oracle is ground truth: as a guide it is refused unless asked for.
    """
    name, argument = parse(text)
    if name == "sample":
        return cast(Procedure, load("inferalign.procedures.sample:Sample")(engine, chat, seed=seed, sampling=sampling))
    guided = name != "random-of-n"
    if guided and scorer is not None and scorer.name == "oracle" and not allow_oracle_guide:
        raise InputError(
            f"{text} would be guided by the oracle, which knows the truth it is measured by: give --scorer self, or "
            "--allow-oracle-guide to measure the best any judge could do"
        )
    if name == "rain":
        return _build_rain(text, engine, chat, scorer, seed, sampling, rain or SETTINGS[str(argument)], encoder)
    direction = {"best-of-n": "best", "worst-of-n": "worst", "random-of-n": None}[name]
    of_n = load("inferalign.procedures.best_of_n:OfN")
    return cast(Procedure, of_n(engine, chat, scorer, direction=direction, n=argument, seed=seed, sampling=sampling))


def _build_rain(
    text: str,
    engine: Engine,
    chat: ChatFormat,
    scorer: Scorer | None,
    seed: int,
    sampling: Sampling,
    settings: RainSettings,
    encoder: str | None,
) -> Procedure:
    from inferalign.procedures.rain import Rain
    from inferalign.procedures.rain_embedding import SentenceEncoder
    from inferalign.scorers.self_eval import SelfEval

    if scorer is None:
        raise InputError(f"{text} needs a guide to search by and got none: give --scorer self")
    if sampling.temperature != 1.0 or sampling.top_k is not None:
        raise InputError(
            f"{text} draws its candidates by its own settings; it was given temperature {sampling.temperature} and "
            f"top-k {sampling.top_k}: leave out --temperature and --top-k"
        )
    if isinstance(scorer, SelfEval):
        scorer = scorer.with_form(settings.form)
    return Rain(
        engine,
        chat,
        scorer,
        seed=seed,
        sampling=sampling,
        settings=settings,
        name=text,
        encoder=SentenceEncoder(encoder, chat.decode) if encoder else None,
    )
