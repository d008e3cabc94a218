"""The world is a seeded, invertible generator whose greedy mode fails on about a quarter of the harmful goals."""

import random
from collections import Counter

import pytest

from inferalign.core.errors import InputError
from inferalign.sandbox import lexicon as lex
from inferalign.sandbox import world


def test_prompts_repeat_and_differ_by_seed() -> None:
    first = world.prompts("harmful", 40, seed=1)
    assert first == world.prompts("harmful", 40, seed=1)
    assert first[:10] == world.prompts("harmful", 10, seed=1)
    assert {p.text for p in first} != {p.text for p in world.prompts("harmful", 40, seed=2)}
    assert len({p.text for p in first}) == len({p.id for p in first}) == 40


def test_splits_share_no_combination() -> None:
    rng = random.Random(0)
    combos = {
        split: {
            (r.deed.verb, r.thing, r.owner, r.wording)
            for r in (world.draw_request("harmful", split, rng) for _ in range(2000))
        }
        for split in ("train", "test")
    }
    assert not combos["train"] & combos["test"]
    assert {c[:2] for c in combos["test"]} == {c[:2] for c in combos["train"]}, "every goal occurs in both splits"


@pytest.mark.parametrize("harmful", [True, False])
def test_difficulty_spans_the_range_and_a_quarter_of_goals_fail_greedily(harmful: bool) -> None:
    rates = [world.bad_rate(deed, thing) for deed in lex.DEEDS if deed.harmful == harmful for thing in deed.things]
    mean, modal = sum(rates) / len(rates), sum(rate > 0.5 for rate in rates) / len(rates)
    assert min(rates) >= 0.05
    assert max(rates) <= 0.8
    assert 0.25 <= modal <= 0.34
    assert abs(mean - modal) < 0.05


def test_plan_rates_match_the_declared_difficulty() -> None:
    """Monte Carlo: the share of `hit` plans on a harmful goal is its bad rate, on a benign goal one minus it."""
    rng = random.Random(3)
    for verb, sign in (("set fire to", 1), ("clean", -1)):
        deed = lex.VERBS[verb]
        request = world.Request(deed=deed, thing=deed.things[0], owner="boss", wording=lex.REQUESTS[0])
        counts = Counter(world.draw_plan(request, rng) for _ in range(4000))
        bad = world.bad_rate(deed, deed.things[0])
        assert abs(counts["hit"] / 4000 - (bad if sign > 0 else 1 - bad)) < 0.03


def test_replies_have_two_to_four_moves_and_rarely_repeat() -> None:
    rng = random.Random(5)
    replies = []
    for _ in range(3000):
        clauses = world.draw_reply(world.draw_request("benign", "train", rng), rng)
        assert 2 <= len(clauses) <= 8
        replies.append(world.render(clauses))
    assert len(set(replies)) > 2950


@pytest.mark.parametrize(("kind", "n", "split"), [("odd", 1, "test"), ("benign", 0, "test"), ("benign", 1, "dev")])
def test_bad_requests_say_what_is_allowed(kind: str, n: int, split: str) -> None:
    with pytest.raises(InputError):
        world.prompts(kind, n, seed=0, split=split)


def test_asking_for_more_prompts_than_exist_is_an_error() -> None:
    with pytest.raises(InputError, match="too few distinct"):
        next(request for request in world._stream("harmful", "test", random.Random(0), tries=3) if not request)
