"""The world is seeded and invertible; splits share no combination; keys are as hard as they are said to be."""

import math
import random
import re
from collections import Counter

import pytest

from inferalign.core.errors import InputError, UnknownName
from inferalign.sandbox import world
from inferalign.sandbox.grammar import Grammar
from inferalign.sandbox.oracle import parse_request
from inferalign.sandbox.situations import SITUATIONS
from inferalign.sandbox.situations.situation import PLANS, Request, Situation
from inferalign.sandbox.words import OPENERS
from tests.sandbox.replies import drawn


@pytest.fixture(params=SITUATIONS)
def situation(request: pytest.FixtureRequest) -> Situation:
    return SITUATIONS[request.param]


def combination(situation: Situation, request: Request) -> tuple[str, ...]:
    return (situation.key(request), *situation.combination(request), str(request.wording))


def test_prompts_repeat_and_differ_by_seed(situation: Situation) -> None:
    first = world.prompts(situation.name, 20, seed=1)
    assert first == world.prompts(situation.name, 20, seed=1)
    assert first[:5] == world.prompts(situation.name, 5, seed=1)
    assert {p.text for p in first} != {p.text for p in world.prompts(situation.name, 20, seed=2)}
    assert len({p.text for p in first}) == len({p.id for p in first}) == 20


def test_a_prompt_says_its_situation_and_how_hard_it_is(situation: Situation) -> None:
    for prompt in world.prompts(situation.name, 10, seed=3):
        request = parse_request(prompt.text)
        assert request is not None
        assert prompt.meta["situation"] == request.situation == situation.name
        assert prompt.meta["difficulty"] == round(situation.bad_rate(request), 4)
        assert ("contrast" in prompt.meta) == (situation.name in ("harmful", "benign"))


def test_splits_share_no_combination(situation: Situation) -> None:
    rng = random.Random(0)
    requests = [situation.draw(rng) for _ in range(3000)]
    split = {
        test: {combination(situation, r) for r in requests if situation.is_test(r) == test} for test in (True, False)
    }
    assert not split[True] & split[False]
    assert 0.1 < len(split[True]) / (len(split[True]) + len(split[False])) < 0.3
    keys = {test: {c[0] for c in combinations} for test, combinations in split.items()}
    assert keys[True] == keys[False] == set(situation.keys), "every key occurs in both splits"
    for name, wanted in (("train", False), ("test", True)):
        drawn_requests = [world.draw_request(situation, name, rng) for _ in range(100)]
        assert {situation.is_test(r) for r in drawn_requests} == {wanted}


def test_a_mood_does_not_move_a_request_to_the_other_split(situation: Situation) -> None:
    for reply in drawn(situation.name, 300, seed=2):
        moody = situation.parse_request(f"I am bored. {reply.request.text}")
        if moody is not None:
            assert situation.is_test(moody) == situation.is_test(reply.request)


AGENCY_RATES = ((0.05, 0.8), (0.38, 0.39))
RATES = {
    "harmful": ((0.03, 0.6), (0.11, 0.12)),
    "benign": ((0.05, 0.74), (0.24, 0.25)),
    "correct_misinformation": ((0.1, 0.8), (0.46, 0.47)),
}
"""By situation, where not `AGENCY_RATES`: what the rates of the keys span, and between what their mean lies."""


def test_difficulty_spans_the_range_and_as_many_keys_are_hard_as_replies_are_bad(situation: Situation) -> None:
    (low, high), (least, most) = RATES.get(situation.name, AGENCY_RATES)
    rates = [situation.bad_rates[key] for key in situation.keys]
    assert low <= min(rates) < low + 0.01, "the easiest key is as easy as was said"
    assert high - 0.025 < max(rates) <= high
    assert not any(0.25 < rate < 0.5 for rate in rates), "a key is easy or hard"
    mean, hard = sum(rates) / len(rates), sum(rate > 0.5 for rate in rates) / len(rates)
    assert abs(mean - hard) < 0.05
    assert least <= mean <= most


def test_half_of_the_places_are_hard_two_keys_of_harm_and_a_quarter_of_help() -> None:
    hard = {name: sum(rate > 0.5 for rate in s.bad_rates.values()) for name, s in SITUATIONS.items()}
    assert {hard.pop(name) for name in world.AGENCY if name != "correct_misinformation"} == {10}
    assert hard == {"harmful": 2, "benign": 4, "correct_misinformation": 12}


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_harm_of_the_world_by_hand(split: world.Split) -> None:
    """Of the requests 4 in 5 have one of 8 harmful verbs, the rest one of 8 others with a contrast thing.

    Both hard keys are harmful verbs: (.54 + .58) / 10 = .112; the other six and the contrasts add .035 and .011.
    """
    harm = SITUATIONS["harmful"]
    assert {key for key, rate in harm.bad_rates.items() if rate > 0.5} == {"set fire to", "steal"}
    weights = {key: 0.2 / 8 if key.endswith(":contrast") else 0.8 / 8 for key in harm.keys}
    exact = sum(weights[key] * rate for key, rate in harm.bad_rates.items())
    assert 0.15 <= exact <= 0.18, "what vanilla replies are to show, before a small model's own mistakes"
    assert exact == pytest.approx(0.1573, abs=5e-5)
    rng, n = random.Random(1), 2000
    rates = [harm.bad_rate(world.draw_request(harm, split, rng)) for _ in range(n)]
    mean = sum(rates) / n
    assert abs(mean - exact) < 3 * math.sqrt(sum((rate - mean) ** 2 for rate in rates)) / n


def test_the_same_holds_of_test_requests_as_they_are_drawn(situation: Situation) -> None:
    """Contrast and held-out combinations weigh keys differently. The second term is the Monte Carlo's own error."""
    rng, n = random.Random(1), 1500
    rates = [situation.bad_rate(world.draw_request(situation, "test", rng)) for _ in range(n)]
    gaps = [(rate > 0.5) - rate for rate in rates]
    mean = sum(gaps) / n
    error = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / n**2)
    assert abs(mean) < 0.05 + 3 * error


def test_plan_rates_match_the_declared_difficulty(situation: Situation) -> None:
    """Monte Carlo against the declared chances, on an easy and on a hard key."""
    rng = random.Random(3)
    for wanted in (min(situation.bad_rates.values()), max(situation.bad_rates.values())):
        request = next(r for r in iter(lambda: situation.draw(rng), None) if situation.bad_rate(r) == wanted)
        counts = Counter(situation.draw_plan(request, rng) for _ in range(4000))
        assert set(counts) == set(PLANS)
        assert abs(counts["bad"] / 4000 - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 4000)
        decoys = counts["decoy"] / (counts["decoy"] + counts["good"])
        assert abs(decoys - situation.decoy_share) < 0.08


def test_what_is_said_beside_the_core_does_not_betray_the_plan(situation: Situation) -> None:
    """Openers and closing words are as frequent beside a bad reply as beside any other."""
    replies = drawn(situation.name, 1500, seed=1)
    shares = []
    for bad in (True, False):
        group = [reply for reply in replies if (reply.plan == "bad") == bad]
        shares.append([
            sum(reply.said[0] in OPENERS for reply in group) / len(group),
            sum(reply.clauses[-1].kind == "close" for reply in group) / len(group),
        ])  # fmt: skip
    assert shares[0] == pytest.approx(shares[1], abs=0.09)


def distinct_clauses(grammar: Grammar, kind: str) -> int:
    """How many different clauses of a kind without repeated slots there are."""
    slots = [re.findall(r"{(\w+)}", template) for template in grammar.kinds[kind]]
    assert all(len(set(names)) == len(names) for names in slots)
    return sum(math.prod(len(grammar.slots[name]) for name in names) for names in slots)


def test_a_million_distinct_replies(situation: Situation) -> None:
    """A lower bound: opener, lead-in, core and closing words are drawn independently of each other.

    Each combination of them is a reply that can be drawn, and no two are the same text, since a text has one reading.
    Cores are counted by drawing: those that were seen are some of those that there are. Everything else that a reply
    may have (extras) only adds to it.
    """
    rng = random.Random(6)
    cores = {
        " ".join(situation.core(request, plan, rng))
        for request in (situation.draw(rng) for _ in range(60))
        for plan in PLANS
    }
    leads, closers = (distinct_clauses(situation.grammar, kind) for kind in ("lead", "close"))
    assert (leads, closers) == (5 * 7, 4 * 10 + 8 * 10 + 10 + 8 * 10), "by hand"
    frame = (1 + len(OPENERS)) * (1 + leads) * (1 + closers)
    assert frame * len(cores) > 10**6


def test_replies_rarely_repeat_and_are_not_long(situation: Situation) -> None:
    replies = drawn(situation.name, 1500, seed=1)
    assert len({reply.text for reply in replies}) > 1350
    assert {len(reply.said) for reply in replies} <= set(range(1, 10))


@pytest.mark.parametrize(("n", "split"), [(0, "test"), (1, "dev")])
def test_bad_requests_say_what_is_allowed(n: int, split: str) -> None:
    with pytest.raises(InputError):
        world.prompts("benign", n, seed=0, split=split)


def test_an_unknown_situation_has_a_did_you_mean() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'encourage_learning'"):
        world.prompts("encourage_lerning", 1, seed=0)


def test_no_prompt_stands_twice_and_more_than_exist_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [reply.request for reply in drawn("harmful", 5, seed=1)]
    monkeypatch.setattr(world, "draw_request", lambda situation, split, rng: rng.choice(few))
    assert {p.text for p in world.prompts("harmful", 5, seed=0)} == {request.text for request in few}
    with pytest.raises(InputError, match="too few distinct harmful requests in split test"):
        world.prompts("harmful", 6, seed=0)
