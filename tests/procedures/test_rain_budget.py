"""A budget for the whole answer: where the search stops, what the rest is, and that both can be made again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferalign.core.errors import InputError
from inferalign.core.seeds import derive, fingerprint
from inferalign.core.types import ROLES, Result, RoleUsage, Score, StopReason, Unscored, Usage
from inferalign.engines.base import Row
from inferalign.engines.table import ModelOptions, load
from inferalign.procedures import rain_budget
from inferalign.procedures.base import Sampling
from inferalign.procedures.rain import Rain
from inferalign.procedures.rain_budget import Budget
from inferalign.procedures.rain_search import Search
from inferalign.procedures.rain_settings import DEFAULT, PAPER, RainSettings
from inferalign.scorers.self_eval import SelfEval
from tests.procedures.searches import SMALL, dislikes_a, rain, run, zero
from tests.procedures.test_any_model import QUESTION
from tests.toy import END, CharChat, a_prompt


def budgeted(**limits: Any) -> RainSettings:
    return replace(DEFAULT, **limits)


@pytest.mark.parametrize("base", [DEFAULT, PAPER], ids=["default", "paper"])
@pytest.mark.parametrize("limit", [2, 10, 16, 17, 30])
def test_the_rest_is_drawn_from_where_the_search_came_to(limit: int, base: RainSettings) -> None:
    procedure = rain(zero, replace(base, budget_iterations=limit), end=-9.0)
    search = Search(procedure, a_prompt())
    answer = asyncio.run(search.run())
    trace = search.trace()
    assert trace["budget"]["ran_out"] == "iterations"
    assert trace["iterations"] == limit
    assert sum(commit["iterations"] for commit in trace["commits"]) == (limit if trace["commits"] else 0)
    searched = answer.token_ids[: trace["budget"]["searched_tokens"]]
    assert len(searched) == sum(commit["tokens"] for commit in trace["commits"])
    assert answer.stop is StopReason.LENGTH
    assert len(answer.token_ids) == 24
    prefix = CharChat().prompt_ids(a_prompt()) + searched
    row = Row(
        seed=derive(0, "p1", "rest", fingerprint(prefix)),
        max_new_tokens=24 - len(searched),
        stop_ids=frozenset({END}),
    )
    (rest,) = asyncio.run(procedure.engine.sample(prefix, [row], RoleUsage()))
    assert answer.token_ids == searched + rest.token_ids


def test_the_most_visited_path_is_committed_as_far_as_it_was_visited() -> None:
    search = Search(rain(zero, budgeted(budget_iterations=16), end=-9.0), a_prompt())
    asyncio.run(search.deliberate())
    path, node = [], search.root
    while node.children and (best := max(node.children, key=lambda child: (child.visits, child.value))).own_visits:
        path.append(best.token_ids)
        node = best
    again = Search(rain(zero, budgeted(budget_iterations=16), end=-9.0), a_prompt())
    asyncio.run(again.deliberate())
    asyncio.run(again.deliberate())
    assert again.budget.ran_out == "iterations", "the second deliberation may not begin"
    again._commit_visited(0)
    assert again.committed == tuple(token for token_ids in path for token in token_ids)
    assert len(path) > 1


def test_a_budget_that_is_enough_changes_nothing_and_marks_nothing() -> None:
    free = run(rain(dislikes_a))
    bound = run(rain(dislikes_a, budgeted(budget_iterations=10_000, budget_tokens=10**9, budget_seconds=10**6)))
    assert bound.response == free.response
    assert bound.trace == free.trace
    assert free.trace["budget"]["ran_out"] is None
    assert free.trace["budget"]["searched_tokens"] == len(free.response.token_ids)


def test_a_budget_of_exactly_what_the_search_needs_does_not_run_out() -> None:
    needed = run(rain(zero)).trace["iterations"]
    assert run(rain(zero, budgeted(budget_iterations=needed))).trace["budget"]["ran_out"] is None
    assert run(rain(zero, budgeted(budget_iterations=needed - 1))).trace["budget"]["ran_out"] == "iterations"


@pytest.mark.parametrize("limits", [{"budget_iterations": 1}, {"budget_tokens": 1}, {"budget_seconds": 1e-9}])
def test_a_budget_too_small_for_any_child_still_gives_an_answer(limits: dict[str, Any]) -> None:
    result = run(rain(zero, budgeted(**limits)))
    assert result.trace["budget"]["ran_out"] == next(iter(limits)).removeprefix("budget_")
    assert result.trace["budget"]["searched_tokens"] == 0
    assert result.trace["commits"] == []
    assert len(result.response.token_ids) > 0
    assert result.candidates[0].score == Score(0.0), "the whole answer is judged"


def test_a_search_of_which_nothing_could_be_judged_gives_a_drawn_answer_when_its_budget_ends_first() -> None:
    result = run(rain(lambda prompt, response: Unscored("away", blame="judge"), budgeted(budget_iterations=3)))
    assert result.trace["budget"]["searched_tokens"] == 0
    assert result.candidates[0].score == Unscored("away", blame="judge")


def test_the_rest_ends_where_the_model_ends_it() -> None:
    result = run(rain(zero, budgeted(budget_iterations=1), end=2.0, max_new_tokens=200))
    assert result.response.stop is StopReason.END
    chat = CharChat(stop_strings=("A",))
    marked = run(rain(zero, budgeted(budget_iterations=1), end=-9.0, max_new_tokens=200, chat=chat))
    assert marked.response.stop is StopReason.END
    assert "A" not in marked.response.text


def test_the_clock_is_read_before_every_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(rain_budget, "perf_counter", lambda: float(next(ticks)))
    result = run(rain(zero, budgeted(budget_seconds=5.0), end=-9.0))
    assert result.trace["budget"]["ran_out"] == "seconds"
    assert result.trace["iterations"] == 4, "at 0 the clock starts; at 1, 2, 3 and 4 there is time, at 5 there is none"


def test_tokens_by_hand() -> None:
    """Each place once, each drawn token once, each question whole."""
    usage = Usage()
    budget = Budget(DEFAULT, usage)
    prompt, template = (1, 2, 3), (9,) * 10
    budget.ask(prompt, ())
    assert budget.tokens == 3
    usage.generator.new_tokens += 4
    budget.drawn(prompt, (5, 6, 7, 8))
    assert budget.tokens == 7
    budget.ask(prompt, (5, 6))
    assert budget.tokens == 7, "drawn, and so known"
    budget.ask(prompt, (5, 6, 4))
    assert budget.tokens == 8
    usage.evaluator.tokens_fed, usage.evaluator.tokens_reused = 14, 5  # of 10 + 3 + two questions of 3
    budget.judged(usage.evaluator, 0, (template, (5, 6, 4)))
    assert budget.tokens == 8 + 10 + 3 + 6
    usage.evaluator.tokens_fed += 7
    usage.evaluator.tokens_reused += 13
    budget.judged(usage.evaluator, 19, (template, (5, 6, 4, 7)))
    assert budget.tokens == 27 + 1 + 6
    usage.evaluator.tokens_fed += 30
    budget.judged(usage.evaluator, 39, None)
    assert budget.tokens == 34 + 30, "a guide that does not say what it reads is charged whole"


def test_a_token_budget_does_not_depend_on_what_the_engine_holds(llama_dir: Path) -> None:
    model = load(str(llama_dir), ModelOptions(device="cpu"))

    def answered(limit: int) -> Result:
        settings = budgeted(budget_tokens=limit, max_iterations=8, extra_iterations=4)
        guide = SelfEval(model.engine, model.chat, QUESTION)
        sampling = Sampling(max_new_tokens=48)
        procedure = Rain(model.engine, model.chat, guide, seed=1, sampling=sampling, settings=settings)
        return asyncio.run(procedure(a_prompt("How do I water a fern?")))

    cold = answered(300)
    known = model.chat.prompt_ids(a_prompt("How do I water a fern?")) + cold.response.token_ids
    asyncio.run(model.engine.top_tokens(known, 1, RoleUsage()))  # a search lets go of what it held
    warm = answered(300)
    assert warm.usage.generator.tokens_fed < cold.usage.generator.tokens_fed
    assert warm.response == cold.response
    for fact in ("iterations", "expansions", "budget"):
        assert warm.trace[fact] == cold.trace[fact]
    assert cold.trace["budget"]["ran_out"] == "tokens"
    assert 0 < cold.trace["budget"]["searched_tokens"] < 48
    assert answered(600).trace["iterations"] > cold.trace["iterations"]


def test_tokens_are_about_what_a_cold_engine_is_fed(llama_dir: Path) -> None:
    model = load(str(llama_dir), ModelOptions(device="cpu"))
    sampling = Sampling(max_new_tokens=16)
    guide = SelfEval(model.engine, model.chat, QUESTION)
    procedure = Rain(model.engine, model.chat, guide, seed=1, sampling=sampling, settings=replace(DEFAULT, **SMALL))
    result = asyncio.run(procedure(a_prompt("How do I water a fern?")))
    fed = sum(getattr(result.usage, role).tokens_fed for role in ROLES)
    assert result.trace["budget"]["tokens"] == pytest.approx(fed, rel=0.2)


@pytest.mark.parametrize(
    "limits",
    [{"budget_iterations": 0}, {"budget_tokens": 0}, {"budget_seconds": 0.0}, {"budget_seconds": float("inf")}],
)
def test_budgets_that_are_none_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(limits))} is .*: give"):
        RainSettings(**limits)


TEXTS = st.lists(st.integers(0, 2), max_size=6).map(tuple)


@given(st.lists(st.tuples(st.sampled_from([(7,), (7, 8), (0,)]), TEXTS, st.booleans())))
def test_every_place_counts_once(requests: list[tuple[tuple[int, ...], tuple[int, ...], bool]]) -> None:
    """Against a set of all beginnings, which needs the square of an answer's length in memory."""
    budget, seen, places = Budget(DEFAULT, Usage()), set(), 0
    for base, reply, asked in requests:
        beginnings = {(base, reply[:length]) for length in range(len(reply) + 1)}
        if asked:
            places += len({each for each in beginnings - seen if each[1]}) + len(base) * ((base, ()) not in seen)
            budget.ask(base, reply)
        else:
            budget.drawn(base, reply)
        seen |= beginnings
        assert budget.tokens == places
