"""Searches that share the local engine give the naive reference's trees, however many are in flight.

Eight prompts with a long common beginning, whose reference trees are grown once and noted at every commit; then our
searches of them, 1, 3 and 8 at a time, in other orders, with room for everything and with a store that keeps nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, LlamaForCausalLM

from benchmarks.naive_rain import NaiveNode, NaiveRain, Question, Tokenizer
from inferalign.core.types import Prompt, StopReason, TokenIds
from inferalign.engines.chat import ChatFormat
from inferalign.engines.lanes import TRUNK_TOKENS
from inferalign.engines.local import LocalEngine, load_local
from inferalign.engines.prefix import common_prefix
from inferalign.engines.table import ModelOptions
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain, Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.scorers.scripted import Replaced, hash_vote, text_number
from inferalign.scorers.self_eval import SelfEval
from tests.test_naive_rain import WORDS, assert_same_scores, assert_same_tree, grow
from tests.toy import a_prompt

ROOM = 12
LARGE = 1 << 16
"""Kilobytes: room for everything."""
QUICK = {"max_iterations": 10, "extra_iterations": 4, "min_visits": 2, "candidates": 4, "widen_variance": 10.0}
SETTINGS = {"paper": replace(PAPER, **QUICK), "default": replace(DEFAULT, **QUICK)}
OPENING = "You could ask a friend first, or read the label: it says how much to use. " * 6
TAILS = ("How do I water a fern?", "And when?", "no", "yes", "Every day?", "Is it harmful?", "Let us settle it.", "I")


def vote(value: float, text: str) -> float:
    """Some beginnings of an answer please throughout, so that a search stops early; others never do, and widen."""
    return 1.0 if text_number(text[:2]) % 3 == 0 else min(0.0, hash_vote(value, text)) - 0.25


@dataclass
class Reference:
    """One prompt's naive search: the tree before each commit, and the answer after it."""

    naive: NaiveRain
    steps: list[tuple[NaiveNode, TokenIds]]


class World:
    """A model with many ends of text, so that sets have ends inside, and the references of its eight prompts."""

    def __init__(self, folder: Path, settings: RainSettings) -> None:
        self.folder, self.settings = folder, settings
        self.prompts = [a_prompt(OPENING + tail, name=f"p{i}") for i, tail in enumerate(TAILS)]
        self.chat = ChatFormat(AutoTokenizer.from_pretrained(folder), end_ids=range(100, 400, 15))
        self.model = LlamaForCausalLM.from_pretrained(folder).eval()
        judge = self.judge(self.engine(LARGE))
        self.references = [self._reference(judge, prompt) for prompt in self.prompts]

    def engine(self, kilobytes: int) -> LocalEngine:
        """A bound below a megabyte lets a few of these small searches run at once and keeps little of them."""
        engine = load_local(str(self.folder), ModelOptions(device="cpu")).engine
        assert isinstance(engine, LocalEngine)
        engine.store.capacity = engine.lanes.capacity = kilobytes << 10
        engine.lanes.limit = engine.lanes.capacity // 2
        return engine

    def judge(self, engine: LocalEngine) -> SelfEval:
        return SelfEval(engine, self.chat, WORDS, self.settings.form)

    def search(self, engine: LocalEngine, prompt: Prompt) -> Search:
        guide, sampling = Replaced(self.judge(engine), vote, "vote"), Sampling(max_new_tokens=ROOM)
        return Search(Rain(engine, self.chat, guide, seed=5, sampling=sampling, settings=self.settings), prompt)

    def _reference(self, judge: SelfEval, prompt: Prompt) -> Reference:
        labels = self.chat.label_ids(WORDS.orders[0].text, (" yes", " no"))
        first, second = (self.chat.encode(order.text) for order in WORDS.orders)
        naive = NaiveRain(
            self.model,
            Tokenizer(end_ids=self.chat.end_ids, clause_end_ids=self.chat.clause_end_ids, decode=self.chat.decode),
            Question(before=judge.context(prompt, ()), suffixes=(first, second), labels=(labels, labels)),
            prompt_id=prompt.id,
            prompt_ids=self.chat.prompt_ids(prompt),
            seed=5,
            room=ROOM,
            settings=self.settings,
            rule=vote,
        )
        steps = []
        while not naive.finished():
            naive.deliberate()
            root = deepcopy(naive.root)
            naive.commit()
            steps.append((root, naive.committed))
        return Reference(naive, steps)


@pytest.fixture(scope="module", params=list(SETTINGS))
def world(request: pytest.FixtureRequest, llama_dir: Path) -> World:
    return World(llama_dir, SETTINGS[request.param])


async def follow(search: Search, reference: Reference) -> None:
    """Search commit by commit, each tree beside its reference."""
    for root, committed in reference.steps:
        assert search.finished() is StopReason.PARTIAL
        iterations = await search.deliberate()
        await grow(search, search.root, search.committed)
        assert_same_tree(search.root, root)
        search.commit(iterations)
        assert search.committed == committed
    assert search.finished() is not StopReason.PARTIAL
    assert_same_scores(search, reference.naive)


@pytest.mark.parametrize(("at_once", "kilobytes"), [(1, LARGE), (3, LARGE), (8, LARGE), (8, 300), (8, 0)])
def test_same_trees_whatever_is_in_flight(at_once: int, kilobytes: int, world: World) -> None:
    engine = world.engine(kilobytes)
    order = [int(i) for i in np.random.default_rng(at_once + kilobytes).permutation(len(world.prompts))]
    searches = {i: world.search(engine, world.prompts[i]) for i in order}

    async def work() -> None:
        while order:
            i = order.pop()
            await follow(searches[i], world.references[i])
            engine.forget(searches[i].prompt_ids)

    async def run() -> None:
        await asyncio.gather(*(work() for _ in range(at_once)))

    asyncio.run(run())
    seen: Counter[str] = Counter()
    for search in searches.values():
        seen.update({name: search.trace()[name] for name in ("early_stops", "widenings")})
        seen["ends"] += search.finished() is StopReason.END
    assert min(seen[name] for name in ("early_stops", "widenings", "ends")) > 0, f"the case is too easy: {seen}"
    assert (engine.store.stats.evicted > 0) == (kilobytes < LARGE)


def test_the_prompts_share_a_trunk(world: World) -> None:
    """What the case above is meant to try: a beginning that lanes read together."""
    stem = common_prefix([world.chat.prompt_ids(prompt) for prompt in world.prompts])
    assert len(stem) >= TRUNK_TOKENS
    engine = world.engine(LARGE)

    async def run() -> None:
        await asyncio.gather(*(world.search(engine, prompt).deliberate() for prompt in world.prompts))

    asyncio.run(run())
    assert max(len(trunk.token_ids) for trunk in engine.lanes._trunks) >= len(stem)
