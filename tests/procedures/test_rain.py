"""The search on a made-up language: what it commits, when it stops, and what it counts."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import pytest

from inferalign.core.errors import ContextOverflow, ScoringError
from inferalign.core.results import metrics
from inferalign.core.types import Completion, Prompt, Score, StopReason, Unscored
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.procedures.rain_tree import Node, wants_widening
from inferalign.procedures.sample import Sample
from inferalign.scorers.scripted import Verdict
from tests.procedures.searches import Judge, dislikes_a, rain, run, zero
from tests.toy import END, CharChat, a_prompt


@pytest.mark.parametrize("settings", [DEFAULT, PAPER], ids=["default", "paper"])
def test_search_avoids_what_its_guide_dislikes(settings: RainSettings) -> None:
    searched, sampled = 0, 0
    for seed in range(6):
        procedure = rain(dislikes_a, settings, seed=seed, end=-1.0)
        sample = Sample(procedure.engine, procedure.chat, seed=seed, sampling=Sampling(max_new_tokens=24))
        searched += "a" in run(procedure).response.text
        sampled += "a" in asyncio.run(sample(a_prompt())).response.text
    assert searched < sampled
    assert sampled >= 3


def test_the_same_request_gives_the_same_answer_and_another_seed_another_tree() -> None:
    first, again, other = run(rain(dislikes_a)), run(rain(dislikes_a)), run(rain(zero, seed=1))
    assert first.response == again.response
    assert first.trace == again.trace
    assert run(rain(zero)).trace != other.trace


def test_a_set_is_cut_at_the_end_and_the_search_stops_there() -> None:
    result = run(rain(zero, end=2.5))
    assert result.response.stop is StopReason.END
    assert END not in result.response.token_ids
    assert len(result.response.token_ids) < 24


def test_as_published_the_end_stays_in_the_set_and_leaves_the_answer() -> None:
    procedure = rain(zero, PAPER, end=2.5)
    search = Search(procedure, a_prompt())
    answer = asyncio.run(search.run())
    assert END in search.committed
    assert answer.token_ids == search.committed[: search.committed.index(END)]
    assert answer.stop is StopReason.END


def test_a_terminal_child_is_judged_without_a_simulation() -> None:
    judged: list[Completion] = []

    def note(prompt: Prompt, response: Completion) -> Verdict:
        judged.append(response)
        return Score(0.0)

    procedure = rain(note, end=3.0)
    search = Search(procedure, a_prompt())
    asyncio.run(search.deliberate())
    ended = [child for child in search.root.children if child.ended]
    assert len(ended) == 1
    assert ended[0].token_ids == ()
    assert ended[0].own_visits > 1, "a terminal child can be visited again"
    assert not ended[0].pending
    assert sum(response.text == "" and response.stop is StopReason.END for response in judged) == 1


@pytest.mark.parametrize(("horizon", "partial"), [("clause", True), ("answer", False)])
def test_what_is_judged_is_a_clause_longer_or_the_whole_answer(
    horizon: Literal["clause", "answer"], partial: bool
) -> None:
    judged: list[Completion] = []

    def note(prompt: Prompt, response: Completion) -> Verdict:
        judged.append(response)
        return Score(0.0)

    procedure = rain(note, replace(DEFAULT, horizon=horizon), end=1.0, max_new_tokens=400)
    search = Search(procedure, a_prompt())
    asyncio.run(search.deliberate())
    assert len(judged) == 10, "each child once, and the same verdict again"
    assert any(response.stop is StopReason.PARTIAL for response in judged) is partial


def test_length_and_context_end_an_answer() -> None:
    assert run(rain(zero, end=-9.0, max_new_tokens=9)).response.stop is StopReason.LENGTH
    prompt = a_prompt()
    size = len(CharChat().render(prompt.messages))
    result = run(rain(zero, end=-9.0, context=size + 5), prompt)
    assert (result.response.stop, len(result.response.token_ids)) == (StopReason.CONTEXT, 5)
    with pytest.raises(ContextOverflow, match=f"the prompt takes {size}"):
        run(rain(zero, context=size), prompt)


def test_an_answer_ends_at_the_marker_of_the_next_turn() -> None:
    chat = CharChat(stop_strings=("A",))
    response = run(rain(zero, chat=chat, end=-9.0, max_new_tokens=48)).response
    assert response.stop is StopReason.END
    assert "A" not in response.text


def test_a_marker_of_many_tokens_is_no_part_of_the_answer_nor_of_what_is_judged() -> None:
    """The marker is a piece of what the search says without one, across the sets' bounds, so that it is met."""
    ended = 0
    for seed in range(5):
        marker = run(rain(zero, seed=seed, end=-9.0)).response.text[5:8]
        chat = CharChat(stop_strings=(marker,))
        procedure = rain(zero, seed=seed, chat=chat, end=-9.0)
        search = Search(procedure, a_prompt())
        answer = asyncio.run(search.run())
        if answer.stop is StopReason.END:
            text = chat.decode(search.committed)
            assert answer.text == text[: text.index(marker)]
            ended += 1
        judged = procedure.guide.requests  # type: ignore[attr-defined]
        assert not any(marker in response.text for _, response in judged)
    assert ended >= 2


def test_budget_is_what_the_settings_say() -> None:
    trace = run(rain(zero, end=-9.0)).trace
    first, *later = trace["commits"]
    assert first["iterations"] == 16
    for before, commit in zip(trace["commits"], later, strict=False):
        assert commit["iterations"] == max(16 - before["visits"], 6)
    assert trace["iterations"] == sum(commit["iterations"] for commit in trace["commits"])
    assert trace["early_stops"] == 0
    assert trace["values"] == {"+0.00": trace["iterations"]}
    json.dumps(trace, allow_nan=False)


def test_a_pleasing_child_ends_the_deliberation_early() -> None:
    trace = run(rain(lambda prompt, response: Score(1.0), end=-9.0)).trace
    assert trace["early_stops"] == len(trace["commits"])
    assert all(commit["visits"] == 7 for commit in trace["commits"]), "more than 6 own visits, at once"


def test_credit_from_siblings_ends_no_deliberation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six visits of its own and many of its like: the search goes on, and ends with the seventh."""

    async def nothing(self: Search) -> None:
        self.facts.counts["iterations"] += 1

    monkeypatch.setattr(Search, "iterate", nothing)
    search = Search(rain(zero), a_prompt())
    child = Node((1,), parent=search.root, visits=60.0, own_visits=6, value=1.0)
    search.root.children = [child]
    assert asyncio.run(search.deliberate()) == 16
    assert search.facts.counts["early_stops"] == 0
    child.own_visits = 7
    assert asyncio.run(search.deliberate()) == 1
    assert search.facts.counts["early_stops"] == 1


def test_a_node_that_has_no_other_child_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token of the toy language is a candidate already."""
    settings = replace(DEFAULT, candidates=50, min_ratio=1e-9, widen_variance=10.0)
    search = Search(rain(lambda prompt, response: Score(-1.0), settings, end=-9.0), a_prompt())
    asyncio.run(search.expand(search.root, ()))
    for child in search.root.children:
        child.own_visits, child.value = 1, -1.0
    assert wants_widening(search.root, search.settings)
    assert asyncio.run(search.proposer.widen(search.root, ())) == 0
    assert not wants_widening(search.root, search.settings)


def test_what_was_committed_stays_where_nothing_that_may_follow_can_be_judged() -> None:
    """The guide goes away after 4 verdicts: the rest is drawn, and the record says how far the answer was searched."""

    def short(prompt: Prompt, response: Completion) -> Verdict:
        return Score(0.5) if len(asked) < 4 and not asked.append(response) else Unscored("away", blame="judge")

    asked: list[Completion] = []
    result = run(rain(short, replace(DEFAULT, candidates=3, widen_draws=0), end=-9.0))
    assert len(result.response.token_ids) == 24
    assert len(result.trace["commits"]) >= 1
    assert 0 < result.trace["budget"]["searched_tokens"] < 24
    assert result.trace["budget"]["ran_out"] is None


def test_an_engine_may_forget_a_search_however_it_ends() -> None:
    def forgotten(judge: Judge) -> int:
        procedure, seen = rain(judge), 0

        def forget(*given: object) -> None:
            nonlocal seen
            seen += len(given) == 1

        procedure.engine.forget = forget  # type: ignore[method-assign]
        with suppress(ScoringError):
            run(procedure)
        return seen

    assert forgotten(zero) == 2
    assert forgotten(lambda prompt, response: Unscored("away", blame="judge")) == 2


def test_children_that_are_never_returned_to_are_not_proposed() -> None:
    search = Search(rain(zero, end=-9.0, max_new_tokens=64), a_prompt())
    asyncio.run(search.deliberate())

    def nodes(node: Node) -> list[Node]:
        return [node, *(below for child in node.children for below in nodes(child))]

    evaluated = [node for node in nodes(search.root) if node.own_visits > 0]
    put_off = [node for node in evaluated if node.pending]
    assert len(put_off) > 0
    assert search.trace()["expansions"] + len(put_off) == len(evaluated)
    assert not any(node.children for node in put_off)


def test_a_leaf_that_cannot_be_judged_leaves_the_tree_and_is_counted() -> None:
    def fails_on_b(prompt: Prompt, response: Completion) -> Verdict:
        return Unscored("no verdict", blame="judge") if "b" in response.text else Score(0.0)

    result = run(rain(fails_on_b))
    assert "b" not in result.response.text
    assert result.trace["unscored"]["judge"] > 0
    assert metrics([result])["unscored"] == result.trace["unscored"], "a search's failed judgements are not lost"
    assert sum(result.trace["values"].values()) + result.trace["unscored"]["judge"] == result.trace["iterations"]


def test_nothing_judged_is_an_error_that_names_the_reason() -> None:
    with pytest.raises(ScoringError, match="the judge is away"):
        run(rain(lambda prompt, response: Unscored("the judge is away", blame="judge")))


def test_usage_is_charged_by_role() -> None:
    usage = run(rain(zero)).usage
    assert usage.generator.forward_calls > 0
    assert usage.embedder.forward_calls > 0
    assert usage.evaluator.forward_calls == 0, "the scripted guide asks no model"


def test_the_improbable_is_dropped_by_the_floor_alone() -> None:
    search = Search(rain(zero, replace(DEFAULT, min_ratio=0.5)), a_prompt())
    asyncio.run(search.deliberate())
    assert 1 <= len(search.root.children) < 10
    published = Search(rain(zero, PAPER), a_prompt())
    asyncio.run(published.deliberate())
    assert len(published.root.children) == 10


def test_mended_widening_adds_a_new_candidate() -> None:
    settings = replace(DEFAULT, candidates=3, widen_variance=10.0)
    trace = run(rain(lambda prompt, response: Score(-1.0), settings, end=-9.0)).trace
    assert trace["widenings"] > 3
