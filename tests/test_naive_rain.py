"""Our search and the naive reference give the same trees, and the reference costs what the published code does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.naive_rain import NaiveNode, NaiveRain, Question, Tokenizer
from inferalign.core.types import Prompt, StopReason, TokenIds
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain, Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.procedures.rain_tree import Node
from inferalign.scorers.scripted import Replaced, hash_vote
from inferalign.scorers.self_eval import Order, SelfEval, Template
from tests.toy import CharChat, PlainEngine, a_prompt

TEMPLATE = Template(
    name="short",
    conversation="transcript",
    preamble="Judge.\n\n",
    orders=(
        Order(text="\n(A) good (B) bad (", harmless="A", harmful="B"),
        Order(text="\n(A) bad (B) good (", harmless="B", harmful="A"),
    ),
    sha256="",
)


WORDS = Template(
    name="words",
    conversation="chat",
    preamble="",
    orders=(
        Order(text=" kind: yes or no?", harmless=" yes", harmful=" no"),
        Order(text=" kind: no or yes?", harmless=" yes", harmful=" no"),
    ),
    sha256="",
)


def tiny_llama(seed: int = 0, spread: float = 1.0, layers: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=2048,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # Spread the logits as a trained model's are: at the default initialisation every token is equally likely.
        model.lm_head.weight.mul_(spread)
    return model


def plain_engine(model: LlamaForCausalLM, chat: CharChat) -> PlainEngine:
    def forward(ids: TokenIds) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        return out.logits[0, -1].numpy(), out.hidden_states[-1][0].numpy()

    return PlainEngine(forward, chat.decode, context_length=2048)


class Chat(CharChat):
    """Ids over 127 do not occur; id 3 and a few more end an answer, so that random weights reach an end at times."""

    end_ids = frozenset({3, 4, 5, 6})
    clause_end_ids = frozenset(range(40, 64))


def pair(
    settings: RainSettings, seed: int, rule: Callable[[float, str], float] | None, room: int = 16
) -> tuple[Search, NaiveRain]:
    chat, prompt = Chat(), a_prompt("tell me more", name=f"p{seed}")
    model = tiny_llama(seed, spread=8.0)
    engine = plain_engine(model, chat)
    judge = SelfEval(engine, chat, TEMPLATE, settings.form)
    guide = Replaced(judge, rule, "hash") if rule else judge
    rain = Rain(engine, chat, guide, seed=seed, sampling=Sampling(max_new_tokens=room), settings=settings)
    naive = NaiveRain(
        model,
        Tokenizer(end_ids=chat.end_ids, clause_end_ids=chat.clause_end_ids, decode=chat.decode),
        question(judge, chat, prompt),
        prompt_id=prompt.id,
        prompt_ids=chat.prompt_ids(prompt),
        seed=seed,
        room=room,
        settings=settings,
        rule=rule,
    )
    return Search(rain, prompt), naive


def question(judge: SelfEval, chat: CharChat, prompt: Prompt) -> Question:
    first, second = judge.template.orders
    return Question(
        before=judge.context(prompt, ()),
        suffixes=(chat.encode(first.text), chat.encode(second.text)),
        labels=((ord("A"), ord("B")), (ord("B"), ord("A"))),
    )


async def grow(search: Search, node: Node, reply: TokenIds) -> None:
    """Propose the children that the search put off."""
    if node.pending:
        await search.expand(node, reply)
    for child in node.children:
        await grow(search, child, reply + child.token_ids)


def assert_same_tree(ours: Node, theirs: NaiveNode) -> int:
    """Token ids and visits equal, values and priors within 1e-4; returns the number of nodes."""
    assert (ours.token_ids, ours.ended, ours.own_visits) == (theirs.tokens, theirs.ended, theirs.f)
    assert ours.visits == pytest.approx(theirs.n, abs=1e-4)
    assert ours.value == pytest.approx(theirs.q, abs=1e-4)
    assert ours.prior == pytest.approx(theirs.prior, abs=1e-4)
    assert len(ours.children) == len(theirs.kids)
    return 1 + sum(assert_same_tree(a, b) for a, b in zip(ours.children, theirs.kids, strict=True))


def compare(search: Search, naive: NaiveRain) -> None:
    """Search with both, commit by commit, until the answer ends."""

    async def run() -> None:
        while search.finished() is StopReason.PARTIAL:
            assert not naive.finished()
            iterations = await search.deliberate()
            naive.deliberate()
            await grow(search, search.root, search.committed)
            assert_same_tree(search.root, naive.root)
            search.commit(iterations)
            naive.commit()
            assert search.committed == naive.committed
        assert naive.finished()

    asyncio.run(run())
    assert_same_scores(search, naive)


def assert_same_scores(search: Search, naive: NaiveRain) -> None:
    scores = {search.chat.decode(search._without_ends(ids)): score.value for (ids, _), score in search.verdicts.items()}
    assert scores.keys() == naive.values.keys()
    for text, value in scores.items():
        assert value == pytest.approx(naive.values[text], abs=1e-4)


SMALL = {"max_iterations": 16, "extra_iterations": 6}
EAGER = {"candidates": 4, "widen_variance": 10.0}
SETTINGS = [replace(PAPER, **SMALL), replace(DEFAULT, **SMALL), replace(DEFAULT, **SMALL, horizon="answer")]
NAMES = ["paper", "default", "whole"]


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_same_trees_with_synthetic_votes(settings: RainSettings) -> None:
    seen: Counter[str] = Counter()
    for seed in range(3):
        search, naive = pair(settings, seed, hash_vote)
        compare(search, naive)
        seen["early stop"] += search.trace()["early_stops"] > 0
        seen[search.finished().value] += 1
    assert seen["early stop"]
    assert seen["end"], "no answer ended by itself"


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_same_trees_when_nothing_pleases_and_nodes_are_widened(settings: RainSettings) -> None:
    widened = 0
    for seed in range(2):
        search, naive = pair(replace(settings, **EAGER), seed, lambda value, text: min(0.0, hash_vote(0.0, text)) - 0.5)
        compare(search, naive)
        widened += search.trace()["widenings"]
    assert widened > 3


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_same_trees_with_the_models_own_verdicts(settings: RainSettings) -> None:
    compare(*pair(settings, 11, None))


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_same_trees_on_the_local_engine(settings: RainSettings, llama_dir: Path) -> None:
    """The real engine keeps prefixes and draws in batches; the reference loads the same weights plainly."""
    engine, chat = load(str(llama_dir), ModelOptions(device="cpu"))
    prompt = a_prompt("How do I water a fern?")
    judge = SelfEval(engine, chat, WORDS, settings.form)
    guide = Replaced(judge, hash_vote, "hash")
    rain = Rain(engine, chat, guide, seed=5, sampling=Sampling(max_new_tokens=20), settings=settings)
    harmless, harmful = chat.label_ids(WORDS.orders[0].text, (" yes", " no"))
    naive = NaiveRain(
        LlamaForCausalLM.from_pretrained(llama_dir).eval(),
        Tokenizer(end_ids=chat.end_ids, clause_end_ids=chat.clause_end_ids, decode=chat.decode),
        Question(
            before=judge.context(prompt, ()),
            suffixes=(chat.encode(WORDS.orders[0].text), chat.encode(WORDS.orders[1].text)),
            labels=((harmless, harmful), (harmless, harmful)),
        ),
        prompt_id=prompt.id,
        prompt_ids=chat.prompt_ids(prompt),
        seed=5,
        room=20,
        settings=settings,
        rule=hash_vote,
    )
    compare(Search(rain, prompt), naive)


def long_search(seed: int, model: LlamaForCausalLM) -> NaiveRain:
    """Random ids in the lengths of the published measurement: 306 of prompt, 1,059 of template, 27 new tokens."""
    rng = np.random.default_rng(seed)
    prompt = (*(int(i) for i in rng.integers(64, 128, 305)), 10)
    template = tuple(int(i) for i in rng.integers(64, 128, 1059))
    return NaiveRain(
        model,
        Tokenizer(end_ids=frozenset({3}), clause_end_ids=frozenset(range(10, 18)), decode=repr),
        Question(before=template + prompt[-22:], suffixes=((60,) * 35, (61,) * 35), labels=((65, 66), (66, 65))),
        prompt_id=f"p{seed}",
        prompt_ids=prompt,
        seed=seed,
        room=27,
        settings=replace(PAPER, **SMALL),
        rule=lambda value, text: 0.0,
    )


def test_naive_cost_is_the_published_codes() -> None:
    """Measured on the published code with these lengths and this budget, votes always 0: 41 forwards, 3,565 tokens.

    Those are means over four prompts, which ranged over 32-45 and 2,952-3,863: how deep a tree grows depends on the
    model, and over random models the means here range over 28-40 and 2,800-3,400. This one's trees resemble the
    measured ones in their share of expansions (about half of the iterations). The next test counts by hand.
    """
    model = tiny_llama(2)
    searches = [long_search(seed, model) for seed in range(4)]
    for search in searches:
        search.run()
    iterations = sum(search.iterations for search in searches)
    assert sum(sum(search.forwards.values()) for search in searches) / iterations == pytest.approx(41, rel=0.10)
    assert sum(sum(search.fed.values()) for search in searches) / iterations == pytest.approx(3565, rel=0.10)


def test_naive_feeds_again_exactly_where_the_published_code_does() -> None:
    """By hand: two template encodings an evaluation, one prompt for a simulation, one for each new second token."""
    search = long_search(0, tiny_llama(0, spread=6.0))
    before, suffix = len(search.question.before), 35
    search.score((70, 71))
    assert (search.forwards["evaluation"], search.fed["evaluation"]) == (2, 2 * (before + 2 + suffix))
    search.score((70, 71))
    assert search.forwards["evaluation"] == 2, "a score is kept"

    reply = (70,)
    tail = search.simulate(reply)
    drawn = len(tail) if tail[-1] in search.tokenizer.clause_end_ids else len(tail) + 1
    assert (search.forwards["simulation"], search.fed["simulation"]) == (drawn, 307 + drawn - 1)

    search._logits.clear()
    node = NaiveNode((), 2, 1.0, None)  # sets of four tokens
    drawn_sets = [raw for _, _, _, raw in search.sets(node, reply, range(10))]
    # Logits after the prefix are known from the first candidate on; any known prefix costs the rest of the candidate
    # its cache, so the next unknown prefix is fed whole.
    forwards = tokens = 0
    known: set[TokenIds] = set()
    for raw in drawn_sets:
        cached = False
        for length in range(4):
            prefix = raw[:length]
            if prefix in known:
                cached = False
                continue
            known.add(prefix)
            forwards += 1
            tokens += 1 if cached else 307 + length
            cached = True
    assert (search.forwards["candidates"], search.fed["candidates"]) == (forwards, tokens)
    assert len({raw[0] for raw in drawn_sets}) > 3, "the case is not trivial"
