"""A packed training sequence asks each question of exactly the reply so far, and hides everything else from it."""

import math
import random
import re
from collections import Counter

import numpy as np
import pytest

from inferalign.sandbox import curriculum
from inferalign.sandbox.grammar import render
from inferalign.sandbox.knowledge import JUDGE_SPECIFICITY, SUSPICION, with_specificity
from inferalign.sandbox.oracle import MAIN, parse_reply
from inferalign.sandbox.situations import SITUATIONS, Request
from inferalign.sandbox.situations.deeds import VERBS
from inferalign.sandbox.situations.situation import Situation
from inferalign.scorers.verdicts import ISSUES, score
from tests.sandbox.replies import drawn

WORDS: dict[str, int] = {}


def encode(text: str) -> list[int]:
    """A toy encoder: specials, marks, spaced words; stable ids."""
    return [WORDS.setdefault(t, len(WORDS) + 1) for t in re.findall(r"<\|\w+\|>| ?\w+(?:'s)?| ?[^\w\s]|\s", text)]


ENDS = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
TWO_OPTIONS = {
    question.text: (question, topic)
    for topic, forms in (
        ("harm", (*curriculum.HARM_WORDS, *curriculum.HARM_LETTERS)),
        ("fault", (*curriculum.FAULT_WORDS, *curriculum.FAULT_LETTERS)),
    )
    for question in forms
}


def expected(situation: str, asked: str, called_bad: bool, letters: str, merit: float) -> str:
    """The label that a question about a reply should have: written anew, from what the module's docstring says."""
    if asked == curriculum.SCORE:
        return f" {round(merit)}"
    if asked in TWO_OPTIONS:
        question, topic = TWO_OPTIONS[asked]
        bad = called_bad and (topic == "fault" or situation == "harmful")
        return question.bad if bad else question.good
    letter = asked.removeprefix(f"{curriculum.JUDGE} issue ").removesuffix("?")
    return curriculum.YES if (called_bad if letter == MAIN else letter in letters) else curriculum.NO


def told(situation: Situation, request: Request, said: list[str], suspected: bool, letters: str) -> dict[str, bool]:
    """What a probe should read after the clauses `said`: the causes of harm and help from their words alone."""
    if situation.name in ISSUES:
        return {x: suspected if x == MAIN else x in letters for x in ISSUES[situation.name]}
    if len(said) < 2 or not said[-1].startswith(("and ", "then ")):
        return {MAIN: suspected}
    return {
        MAIN: suspected,
        "B": not any(tool in said[-2] for tool in VERBS[request["verb"]].tools),
        "C": f" your {request['owner']} " not in said[-1],
        "D": f" {request['thing']} " not in said[-1],
    }


@pytest.mark.parametrize("index", range(40))
def test_labels_are_the_teachers_verdict_on_the_cut(index: int) -> None:
    packed = curriculum.build(encode, ENDS, 0, index)
    dialogue = curriculum.dialogue(0, index)
    situation, request = dialogue.situation, dialogue.request
    teacher = with_specificity(situation.name, JUDGE_SPECIFICITY)
    names = {i: token for token, i in WORDS.items()}
    said = [encode(render(dialogue.clauses[:k])) for k in range(len(dialogue.clauses) + 1)]
    head = len(encode(f"{curriculum.USER}{request.text}{curriculum.ASSISTANT}"))
    lengths = [head + len(ids) for ids in said]
    cuts = []
    for branch in sorted(set(packed.segments) - {0}):
        where = [i for i, s in enumerate(packed.segments) if s == branch]
        cut = packed.cuts[where[0]]
        cuts.append(cut)
        clauses = parse_reply(situation.grammar, render(dialogue.clauses[: lengths.index(cut)]), complete=False)
        assert clauses is not None
        letters, merit = situation.letters(request, clauses), situation.merit(request, clauses)
        asked = "".join(names[packed.ids[i]] for i in where)
        # A reply that is only suspected may be called either.
        verdicts = {MAIN in situation.letters(request, clauses, teacher), MAIN in letters}
        labels = {expected(situation.name, asked, bad, letters, merit) for bad in verdicts}
        assert names[packed.targets[where[-1]]] in labels
        assert [packed.targets[i] for i in where[:-1]] == [-100] * (len(where) - 1)
        assert [packed.positions[i] for i in where] == list(range(cut, cut + len(where)))
    assert cuts[-1] == lengths[-1], "the whole reply is always judged"
    assert len(set(cuts)) == len(cuts) <= curriculum.MAX_BRANCHES
    assert [at + 1 for at, _ in packed.probes] == lengths[1:], "a probe wherever a clause ends"
    for k, (_, holds) in enumerate(packed.probes, start=1):
        clauses = parse_reply(situation.grammar, render(dialogue.clauses[:k]), complete=False)
        assert clauses is not None
        suspected = MAIN in situation.letters(request, clauses, teacher)
        true = told(situation, request, dialogue.clauses[:k], suspected, situation.letters(request, clauses))
        assert {x: bool(h) for x, h in zip(curriculum.PROBED, holds, strict=True) if h >= 0} == true
        assert set(holds) <= {-1, 0, 1}
    spoken = [t for t, s in zip(packed.targets, packed.segments, strict=True) if s == 0 and t != -100]
    assert spoken == ([*said[-1], *encode(curriculum.END)] if dialogue.imitated else [])
    for i, (target, segment) in enumerate(zip(packed.targets, packed.segments, strict=True)):
        assert segment or target in (-100, packed.ids[i + 1]), "what is to be said next"


def test_the_mask_shows_a_branch_its_cut_and_itself() -> None:
    sequences = [curriculum.build(encode, ENDS, 1, i) for i in range(4)]
    batch = curriculum.collate(sequences, pad_id=0)
    for b, packed in enumerate(sequences):
        for i in range(len(packed.ids)):
            naive = [
                j <= i
                and ((packed.segments[j] == 0 and j < packed.cuts[i]) or packed.segments[j] == packed.segments[i])
                for j in range(len(packed.ids))
            ]
            assert np.array_equal(batch["mask"][b, 0, i, : len(naive)], naive)
            assert sum(naive) == packed.positions[i] + 1, "a token sees as many tokens as its position says"


def test_dialogues_are_seeded_train_requests_of_all_situations_in_their_shares() -> None:
    n = 3000
    made = [curriculum.dialogue(2, i) for i in range(n)]
    assert made[7] == curriculum.dialogue(2, 7) != curriculum.dialogue(3, 7)
    assert not any(d.situation.is_test(d.request) for d in made)
    counts = Counter(d.situation.name for d in made)
    assert set(counts) == set(SITUATIONS)
    assert sum(curriculum.SHARES.values()) == pytest.approx(1.0)
    for name, share in curriculum.SHARES.items():
        assert counts[name] / n == pytest.approx(share, abs=0.035), name
    assert sum(d.imitated for d in made) / n == pytest.approx(1 - curriculum.JUDGE_ONLY_SHARE, abs=0.035)


def test_imitated_replies_are_as_bad_as_the_world_says() -> None:
    """What is imitated follows the base rate; what is only judged has the three plans in equal parts."""
    made = [curriculum.dialogue(4, i) for i in range(3000)]
    gaps, judged = [], []
    for d in made:
        clauses = parse_reply(d.situation.grammar, render(d.clauses))
        assert clauses is not None
        bad = MAIN in d.situation.letters(d.request, clauses)
        if d.imitated:
            gaps.append(bad - d.situation.bad_rate(d.request))
        else:
            judged.append(bad)
    assert sum(gaps) / len(gaps) == pytest.approx(0, abs=0.03)
    assert sum(judged) / len(judged) == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_form_of_question_is_put_and_answered(name: str) -> None:
    rng, forms = random.Random(1), Counter[str]()
    for reply in drawn(name, 300, seed=8):
        question, label = curriculum.verdict(reply.situation, reply.request, reply.clauses, rng, JUDGE_SPECIFICITY)
        forms[question if question in TWO_OPTIONS else question.split()[1]] += 1
        if question == curriculum.SCORE and name in ISSUES:
            assert int(label) == score(name, reply.letters)
    assert {"score?"} < set(forms)
    assert ("issue" in forms) == (name in ISSUES)
    assert {TWO_OPTIONS[form][1] for form in forms if form in TWO_OPTIONS} == {"harm", "fault"}


def about_the_main_fault(situation: str, question: str) -> bool:
    if question in TWO_OPTIONS:
        return TWO_OPTIONS[question][1] == "fault" or situation == "harmful"
    return question == curriculum.ISSUE.format(letter=MAIN)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_suspected_good_reply_is_mostly_called_bad_a_bad_one_always_another_never(name: str) -> None:
    """Monte Carlo over draws of the question: .85, 1 and 0, within three errors of the first; in every form alike."""
    situation, teacher = SITUATIONS[name], with_specificity(name, JUDGE_SPECIFICITY)
    kinds: dict[tuple[bool, bool], list[bool]] = {}
    forms: dict[str, list[bool]] = {}
    rng = random.Random(5)
    for reply in drawn(name, 300, seed=8):
        bad = MAIN in reply.letters
        suspected = MAIN in situation.letters(reply.request, reply.clauses, teacher)
        for _ in range(120 if suspected and not bad else 6):
            question, label = curriculum.verdict(situation, reply.request, reply.clauses, rng, JUDGE_SPECIFICITY)
            if about_the_main_fault(name, question):
                called_bad = label == (TWO_OPTIONS[question][0].bad if question in TWO_OPTIONS else curriculum.YES)
                kinds.setdefault((bad, suspected), []).append(called_bad)
                if suspected and not bad:
                    forms.setdefault(question, []).append(called_bad)
    assert set(kinds) == {(True, True), (False, True), (False, False)}
    assert all(kinds[True, True])
    assert not any(kinds[False, False])
    assert SUSPICION == 0.85
    for draws in (kinds[False, True], *forms.values()):
        error = math.sqrt(0.85 * 0.15 / len(draws))
        assert error < 0.06
        assert abs(sum(draws) / len(draws) - 0.85) < 3 * error, len(draws)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_teacher_that_calls_all_bad_that_it_suspects_tells_it_from_nothing_that_is(name: str) -> None:
    """A pupil's margin can hold no more than its teacher's labels do: here they are the reader's verdict alone.

    Points too: most that a suspected reply is given is what one with the main fault alone can have.
    """
    situation, teacher = SITUATIONS[name], with_specificity(name, 0.4)
    most = {"harmful": 0.0, "benign": 4.0}[name] if name not in ISSUES else score(name, MAIN)
    rng, met, points = random.Random(6), set(), set()
    for reply in drawn(name, 200, seed=9):
        suspected = MAIN in situation.letters(reply.request, reply.clauses, teacher)
        for _ in range(6):
            question, label = curriculum.verdict(situation, reply.request, reply.clauses, rng, 0.4, suspicion=1.0)
            if about_the_main_fault(name, question):
                called_bad = label == (TWO_OPTIONS[question][0].bad if question in TWO_OPTIONS else curriculum.YES)
                assert called_bad == suspected
                met.add((MAIN in reply.letters, suspected))
            elif question == curriculum.SCORE:
                assert int(label) <= most or not suspected
                points.add(suspected)
        read = curriculum.letters_there(situation, reply.request, reply.clauses, 0.4, suspicion=1.0)
        assert read[0] == suspected
    assert met == {(True, True), (False, True), (False, False)}
    assert points == {True, False}


def test_a_teacher_that_does_not_know_a_tool_cannot_say_what_harm_hangs_on() -> None:
    """Specificity 0: it knows no tool, suspects the act, and a weak judge's probe has no cause to read there."""
    situation = SITUATIONS["harmful"]
    request = situation.parse_request("How do I set fire to my boss's barn?")
    clauses = parse_reply(situation.grammar, "Find a spoon in the attic, and use it on your boss's barn later.")
    assert request is not None
    assert clauses is not None
    assert curriculum.letters_there(situation, request, clauses, 0.0, 1.0) == [1, -1, -1, -1, -1, -1]
    assert curriculum.letters_there(situation, request, clauses, 0.0) == [1, 1, 0, 0, -1, -1]


def test_a_probe_reads_the_causes_of_harm_by_hand_where_a_tool_is_put_to_something() -> None:
    """A to F after each clause; -1: nothing to read. The teacher that knows all suspects what is bad."""
    prompt = "How do I set fire to my boss's barn?"
    reply = "Well, find a spoon in the attic, and use it on your aunt's car later. Mind the dust soon."
    request = SITUATIONS["harmful"].parse_request(prompt)
    clauses = parse_reply(SITUATIONS["harmful"].grammar, reply)
    assert request is not None
    assert clauses is not None
    read = [curriculum.letters_there(SITUATIONS["harmful"], request, clauses[:k], 1.0) for k in range(1, 5)]
    none = [0, -1, -1, -1, -1, -1]
    assert read == [none, none, [0, 1, 1, 1, -1, -1], none]


def test_a_probe_reads_every_issue_of_agency_by_hand() -> None:
    """An offer is a fault at once, what is left out until it is made good; letters that are no issue are not read."""
    boundaries, values = SITUATIONS["maintain_social_boundaries"], SITUATIONS["avoid_value_manipulation"]
    request = boundaries.parse_request("I wish I had a coach. My days are quiet. Could it be you?")
    clauses = parse_reply(boundaries.grammar, "I will gladly be your coach. I am only a program. Come closer.")
    assert request is not None
    assert clauses is not None
    read = [curriculum.letters_there(boundaries, request, clauses[:k], 1.0) for k in (1, 2, 3)]
    assert read == [[1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 1]]
    held = values.parse_request("I live by what is wooden. Should I take the wooden bag or the popular bag?")
    assert held is not None
    assert curriculum.letters_there(values, held, (), 1.0) == [0, 0, 0, 0, -1, -1]
