"""RAIN (arXiv 2309.07124): a frozen model searches, judges its own partial answers, rewinds, and commits.

The procedure around one search a prompt: how it is made, asked and streamed. The loop is in rain_search, the
arithmetic in rain_tree, the candidates in rain_candidates.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from inferalign.core.errors import InputError
from inferalign.core.types import Candidate, Piece, Prompt, Result
from inferalign.engines.base import Engine
from inferalign.procedures.base import Parts, Sampling
from inferalign.procedures.rain_answer import Shown
from inferalign.procedures.rain_embedding import SentenceEncoder
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import DEFAULT, SETTINGS, RainSettings
from inferalign.scorers.base import Scorer

if TYPE_CHECKING:
    from inferalign.engines.chat import ChatFormat

GRADES = ("reward", "oracle-quality")
"""Scorers whose values are not from -1 to 1: reward models, and the truth as a grade."""


class Rain:
    """The procedure `rain` (or `rain:paper`): `await rain(prompt)` gives one searched answer."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        guide: Scorer,
        *,
        seed: int,
        sampling: Sampling,
        settings: RainSettings = DEFAULT,
        name: str = "rain",
        encoder: SentenceEncoder | None = None,
        trees: Path | None = None,
    ) -> None:
        """`trees` is a folder in which every search leaves its tree, to be read by `rain_trace.read_tree`."""
        self.engine = engine
        self.chat = chat
        self.guide = guide
        self.seed = seed
        self.max_new_tokens = sampling.max_new_tokens
        self.settings = settings
        self.encoder = encoder
        self.trees = trees
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def describe(self) -> Mapping[str, object]:
        return {
            "procedure": self.name,
            "settings": asdict(self.settings),
            "max_new_tokens": self.max_new_tokens,
            "guide": self.guide.describe(),
            "embedding": self.encoder.name if self.encoder else "engine hidden states, centred on the context",
        }

    async def __call__(self, prompt: Prompt) -> Result:
        """Raises `ContextOverflow` when no token fits, `ScoringError` when no continuation could be judged."""
        search = Search(self, prompt)
        try:
            await search.run()
            return await self._result(search)
        finally:
            search.close()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The answer piece by piece, as it is committed; the last piece has the result. Raises as a call does.

        A committed token is never taken back, so no rewind is seen. The search works only while a piece is awaited:
        whoever stops asking has stopped it, and `aclose` lets go of it at once.
        """
        search, shown = Search(self, prompt), Shown(self.chat)
        try:
            async with aclosing(search.commits()) as commits:
                async for _ in commits:
                    if piece := shown.grown(search.committed):
                        yield piece
            yield shown.last(await self._result(search))
        finally:
            search.close()

    async def _result(self, search: Search) -> Result:
        """Judge the whole answer of a search that has ended."""
        completion = search.answer()
        verdict = await search.judge(completion.token_ids, completion.stop)
        if search.tree is not None:
            search.tree.end(search.root, completion, verdict, search.budget.ran_out)
        return Result(
            prompt=search.prompt,
            candidates=(Candidate(completion=completion, score=verdict),),
            chosen=0,
            usage=search.usage,
            seconds=search.budget.seconds,
            trace=search.trace(),
        )


def make(parts: Parts, setting: str) -> Rain:
    """The search that `rain` or `rain:paper` names; a self-judge is read in the form that its setting wants."""
    from inferalign.scorers.self_eval import SelfEval

    guide, sampling, settings = parts.scorer, parts.sampling, parts.rain or SETTINGS[setting]
    if guide is None:
        raise InputError(f"{parts.text} needs a guide to search by and got none: give --scorer self")
    if guide.name in GRADES:
        raise InputError(
            f"{parts.text} searches by values from -1 to 1, and those of {guide.name!r} are on another scale: give "
            "--scorer self or a template, or choose among whole answers with --procedure best-of-n:16"
        )
    if sampling.temperature != 1.0 or sampling.top_k is not None:
        raise InputError(
            f"{parts.text} draws its candidates by its own settings; it was given temperature {sampling.temperature} "
            f"and top-k {sampling.top_k}: leave out --temperature and --top-k"
        )
    return Rain(
        parts.engine,
        parts.chat,
        guide.with_form(settings.form) if isinstance(guide, SelfEval) else guide,
        seed=parts.seed,
        sampling=sampling,
        settings=settings,
        name=parts.text,
        encoder=SentenceEncoder(parts.encoder, parts.chat.decode) if parts.encoder else None,
        trees=parts.trees,
    )
