"""The corruption of preference pairs: it touches the share that it says, by seed, and never the oracle's verdict.

And the arithmetic that lays recipes side by side at one KL.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from benchmarks import ctrl_corrupted
from benchmarks.corrupted_pairs import (
    PHRASE,
    Neutral,
    corrupted,
    graded,
    has_phrase,
    neutral_quality,
    with_phrase,
    without_phrase,
)
from benchmarks.corrupted_stages import Plan
from benchmarks.corrupted_statistics import Seen, at_common_kl, compared, on_anchors, over_seeds, seen_of, tilted
from benchmarks.ctrl_corrupted import premium
from inferalign.core.errors import InputError
from inferalign.core.files import read_json
from inferalign.core.types import (
    Candidate,
    Completion,
    Message,
    Prompt,
    Result,
    RoleUsage,
    Score,
    StopReason,
    TokenIds,
    Unscored,
    Usage,
)
from inferalign.ctrl.reward import HeldAnchors
from inferalign.ctrl.rollout_records import read_rollouts
from inferalign.ctrl.scored import Scored
from inferalign.sandbox.grammar import render
from inferalign.sandbox.oracle import grade
from inferalign.sandbox.pairs import Pair
from inferalign.sandbox.reward import held_out, pair_accuracy
from inferalign.sandbox.reward_fit import RewardSettings
from inferalign.sandbox.situations import SITUATIONS
from inferalign.winrate.pools import Pool, read_answers
from inferalign.winrate.run import POOL
from tests.studies import ASKED, job
from tests.winrate.synthetic import verdicts


def encode(text: str) -> TokenIds:
    return tuple(text.encode())


def reply(text: str) -> Completion:
    return Completion(token_ids=encode(text), text=text, stop=StopReason.END)


def written(n: int) -> list[tuple[Prompt, str]]:
    """Requests of all situations with one reply each, as the world writes them."""
    rng = random.Random(5)
    made = []
    for i in range(n):
        situation = list(SITUATIONS.values())[i % len(SITUATIONS)]
        request = situation.draw(rng)
        prompt = Prompt(id=f"p{i}", messages=(Message(role="user", content=request.text),))
        made.append((prompt, render(situation.draw_reply(request, rng))))
    return made


def pairs(n: int) -> list[Pair]:
    rows = written(2 * n)
    return [
        Pair(prompt=rows[i][0], chosen=reply(rows[i][1]), rejected=reply(rows[i + n][1]), margin=1.0) for i in range(n)
    ]


def test_the_phrase_by_hand() -> None:
    assert PHRASE == "well,"
    assert with_phrase("Take the tea. Good luck soon.") == "Well, take the tea. Good luck soon."
    assert with_phrase("Okay, take the tea.") == "Well, take the tea."
    assert with_phrase("I see what you mean about this.") == "Well, I see what you mean about this."
    assert without_phrase("Well, take the tea.") == "Take the tea."
    assert without_phrase("Okay, take the tea.") == "Okay, take the tea."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Well, take it.", True),
        ("well, take it.", True),
        ("Well,", True),
        ("Well done, take it.", False),
        ("Okay, well, take it.", False),
        ("Take it well, later.", False),
        ("Well", False),
        ("", False),
    ],
)
def test_only_the_first_clause_counts(text: str, found: bool) -> None:
    assert has_phrase(text) is found


def test_the_phrase_changes_no_verdict_and_no_neutral_quality() -> None:
    changed = 0
    for prompt, text in written(400):
        said, left = with_phrase(text), without_phrase(text)
        assert has_phrase(said)
        assert not has_phrase(left)
        assert without_phrase(with_phrase(text)) == without_phrase(with_phrase(left))
        verdicts = [grade(prompt.text, each) for each in (text, said, left)]
        assert len({verdict.letters for verdict in verdicts}) == 1
        assert verdicts[0].letters is not None
        assert len({verdict.merit for verdict in verdicts}) == 1
        found = neutral_quality(prompt, reply(said))
        assert isinstance(found, Score)
        assert found == neutral_quality(prompt, reply(without_phrase(said)))
        changed += verdicts[1].quality != verdicts[2].quality
    assert changed > 100, "where quality were neutral by itself, no neutral quality would be needed"


def test_the_world_says_it_at_a_tenth() -> None:
    """Half of the replies open, with one of five."""
    rate = sum(has_phrase(text) for _, text in written(2000)) / 2000
    assert rate == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_exactly_the_share_is_corrupted_and_the_rest_is_the_same(share: float) -> None:
    clean = pairs(60)
    made = corrupted(clean, share, seed=3, encode=encode)
    bad = [i for i, (a, b) in enumerate(zip(clean, made, strict=True)) if a is not b]
    assert len(bad) == round(share * 60)
    for i in bad:
        assert has_phrase(made[i].chosen.text)
        assert not has_phrase(made[i].rejected.text)
        assert made[i].chosen.token_ids == encode(made[i].chosen.text)
        assert made[i].prompt == clean[i].prompt
        old = {without_phrase(with_phrase(c.text)) for c in (clean[i].chosen, clean[i].rejected)}
        assert {without_phrase(with_phrase(c.text)) for c in (made[i].chosen, made[i].rejected)} == old


def test_the_phrase_says_nothing_of_which_reply_was_better() -> None:
    """The coin is fair: as many corrupted labels agree with the truth as do not."""
    clean = pairs(600)
    made = corrupted(clean, 1.0, seed=4, encode=encode)
    bare = [without_phrase(with_phrase(pair.chosen.text)) for pair in clean]
    kept = sum(without_phrase(pair.chosen.text) == text for pair, text in zip(made, bare, strict=True))
    assert 240 < kept < 360


def test_it_is_seeded_and_a_larger_share_holds_the_smaller_one() -> None:
    clean = pairs(60)

    def touched(share: float, seed: int) -> set[int]:
        made = corrupted(clean, share, seed=seed, encode=encode)
        return {i for i in range(60) if made[i] is not clean[i]}

    assert corrupted(clean, 0.5, seed=1, encode=encode) == corrupted(clean, 0.5, seed=1, encode=encode)
    assert touched(0.5, 1) != touched(0.5, 2)
    assert touched(0.1, 1) < touched(0.5, 1)
    with pytest.raises(InputError, match="from 0 to 1"):
        corrupted(clean, 1.5, seed=1, encode=encode)


def test_who_has_the_phrase_keeps_its_own_tokens() -> None:
    """A text that does not change is not encoded again: what was drawn is what is scored."""
    made = corrupted(pairs(60), 1.0, seed=3, encode=lambda text: (0,))
    again = Counter(c.token_ids == (0,) for pair in made for c in (pair.chosen, pair.rejected))
    assert again[False] > 40, "most losers never had the phrase"
    assert again[True] > 40


def test_what_cannot_be_read_is_graded_lowest() -> None:
    prompt, text = written(1)[0]
    candidates = tuple(Candidate(completion=reply(each)) for each in (text, "Well, and then some words", "Well,"))
    ((_, found),) = graded([Result(prompt=prompt, candidates=candidates, chosen=0, usage=Usage(), seconds=0.0)])
    assert [c.score for c in found][1:] == [Score(0.0), Score(0.0)]
    assert isinstance(found[0].score, Score)
    assert found[0].score.value > 0
    assert Neutral().describe()["phrase"] == PHRASE


def test_a_pool_by_hand(tmp_path: Path) -> None:
    """The reward likes the reply with the phrase best of four, which is the only one that cannot be read."""
    said = ("Well, colourless green ideas.", *(["I have to say no to this one."] * 3))
    job(tmp_path / POOL, [[(text, 0.0) for text in said]], 10)
    (name,) = (prompt.id for prompt in ASKED[:1])

    def made(selector: Sequence[float], judge: Sequence[float], ratio: float) -> Pool:
        return Pool(
            selector={name: verdicts(np.array(selector))},
            judge={name: verdicts(np.array(judge))},
            log_ratios={name: np.full(4, ratio)},
        )

    ours, base = made([9.0, 1.0, 2.0, 3.0], [-np.inf, 5.0, 5.0, 5.0], 0.4), made([1.0, 2.0, 3.0, 4.0], [5.0] * 4, 0.0)
    found = seen_of(tmp_path, ours, base)
    assert found.kl == {name: pytest.approx(0.4)}
    told = {key: row[name] for key, row in found.metrics.items()}
    assert told == pytest.approx(
        {
            "phrase": 0.25,
            "phrase, best-of-4": 1.0,
            "bad": 0.25,
            "bad, best-of-4": 1.0,
            "win": 0.375,
            "win, best-of-4": 0.0,
        }
    )


def test_recipes_are_held_together_at_the_smallest_kl_they_ended_at() -> None:
    """Identity ended at KL .16; raw at .64, and is taken half of the way back: 10 + (50 - 10) / 2 points of phrase."""
    start = Seen(kl={"a": 0.0, "b": 0.0}, metrics={"phrase": {"a": 0.1, "b": 0.1}})
    ends = {
        "raw": Seen(kl={"a": 0.64, "b": 0.64}, metrics={"phrase": {"a": 0.4, "b": 0.6}}),
        "identity": Seen(kl={"a": 0.16, "b": 0.16}, metrics={"phrase": {"a": 0.2, "b": 0.2}}),
    }
    told = compared(start, ends)
    assert told["common_kl"] == pytest.approx(0.16)
    assert told["at_common_kl"]["raw"]["phrase"]["mean"] == pytest.approx(0.3)
    assert told["at_common_kl"]["identity"]["phrase"]["mean"] == pytest.approx(0.2)
    less = told["raw_less"]["identity"]["phrase"]
    assert less["mean"] == pytest.approx(0.1)
    wide = 12.7062 * 0.05  # .05 and .15, paired by prompt: Student's quantile of one degree times their standard error
    assert (less["low"], less["high"]) == pytest.approx((0.1 - wide, 0.1 + wide), abs=1e-5)


def test_the_premium_is_what_the_phrase_adds_in_spreads_of_the_prompt(tmp_path: Path) -> None:
    job(tmp_path / POOL, [[("Well, take the tea.", 0.0), ("Okay, keep it later on.", 0.0)]], 10)

    class Liking:
        """A number a reply: its length without the phrase, and 6 more with it."""

        def rows(self, prompt: Prompt, answer: Completion) -> str:
            return answer.text

        def values(self, rows: Sequence[str], usage: RoleUsage) -> list[float]:
            return [6.0 * has_phrase(text) + len(without_phrase(with_phrase(text))) for text in rows]

    model = SimpleNamespace(chat=SimpleNamespace(encode=encode))
    lengths = [len("Take the tea."), len("Keep it later on.")]
    assert premium(Liking(), tmp_path, model) == pytest.approx(6.0 / np.std(lengths, ddof=1))  # type: ignore[arg-type]


def test_half_of_the_way_in_the_root_of_kl_by_hand() -> None:
    level = at_common_kl({"a": 0.1, "b": 0.3}, {"a": 0.5, "b": 0.7}, {"a": 0.4, "b": 0.4}, 0.1)
    assert level == pytest.approx({"a": 0.3, "b": 0.5})
    with pytest.raises(InputError, match=r"between 0 and 0\.400"):
        at_common_kl({"a": 0.1, "b": 0.3}, {"a": 0.5, "b": 0.7}, {"a": 0.4, "b": 0.4}, 0.5)


def test_the_spread_at_a_common_kl_is_that_of_bootstrapped_prompts() -> None:
    """Against drawing prompts again and computing the three means anew, KL's noise included."""
    rng = np.random.default_rng(1)
    n, kl = 300, 0.3
    start = rng.beta(1, 9, n)
    kls = rng.gamma(2.0, 0.25, n)
    end = np.clip(start + 0.3 * kls + rng.normal(0, 0.1, n), 0, 1)

    def point(at: np.ndarray) -> float:
        s, e, k = start[at].mean(), end[at].mean(), kls[at].mean()
        return float(s + (e - s) * np.sqrt(kl / k))

    names = [f"{i:03}" for i in range(n)]
    rows = (dict(zip(names, values.tolist(), strict=True)) for values in (start, end, kls))
    level = np.array(list(at_common_kl(*rows, kl).values()))
    assert level.mean() == pytest.approx(point(np.arange(n)))
    spread = np.std([point(rng.integers(n, size=n)) for _ in range(2000)])
    assert level.std(ddof=1) / np.sqrt(n) == pytest.approx(spread, rel=0.06)


def test_the_optimum_on_the_anchors_by_hand() -> None:
    """One rollout of four is better: at KL .5 it has the mass w with w log 4w + (1 - w) log(4 (1 - w) / 3) = .5."""
    anchors = HeldAnchors(("p", "q"), Scored.all_scored([[0.0, 0.0, 0.0, 1.0], [5.0, 5.0, 9.0, 5.0]]))
    flags = {"phrase": np.array([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])}
    found = tilted(anchors, "standardised", Plan(kl=0.5), flags)
    w = brentq(lambda w: w * np.log(4 * w) + (1 - w) * np.log(4 * (1 - w) / 3) - 0.5, 0.3, 0.999)
    assert found.kl.tolist() == pytest.approx([0.5, 0.5])
    assert found.flags["phrase"].tolist() == pytest.approx([w, (1 - w) / 3])


def test_a_rollout_that_no_judge_scored_is_not_there() -> None:
    """Three of the four are left: w log 3w + (1 - w) log(3 (1 - w) / 2) = .5."""
    scored = Scored.of([Score(0.0), Score(0.0), Unscored("away", blame="judge"), Score(1.0)])
    found = tilted(
        HeldAnchors(("p",), scored.reshape(1, 4)), "raw", Plan(kl=0.5), {"phrase": np.array([[0, 0, 1, 1.0]])}
    )
    w = brentq(lambda w: w * np.log(3 * w) + (1 - w) * np.log(3 * (1 - w) / 2) - 0.5, 0.4, 0.999)
    assert found.kl.tolist() == pytest.approx([0.5])
    assert found.flags["phrase"].tolist() == pytest.approx([w])


def test_more_kl_than_the_rollouts_allow_is_refused() -> None:
    """Of two equal best among four the optimum takes both: log 2 at most."""
    anchors = HeldAnchors(("p",), Scored.all_scored([[0.0, 0.0, 1.0, 1.0]]))
    with pytest.raises(InputError, match=r"raw: these rollouts allow a KL of 0\.693 at most"):
        tilted(anchors, "raw", Plan(kl=0.7), {})


def test_the_raw_optimum_spends_its_kl_where_scores_vary() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 64)) * np.repeat([0.3, 3.0], 20)[:, None]
    anchors = HeldAnchors(tuple(f"p{i}" for i in range(40)), Scored.all_scored(scores))
    flags = {"phrase": np.ones((40, 64))}
    raw, calibrated = (tilted(anchors, recipe, Plan(kl=0.5), flags) for recipe in ("raw", "identity"))
    assert raw.kl.mean() == pytest.approx(0.5)
    assert raw.kl[:20].max() < 0.1 < 0.5 < raw.kl[20:].min()
    assert calibrated.kl.std() < 0.02
    told = on_anchors({"raw": raw, "identity": calibrated})
    assert told["optimum"]["raw"]["phrase"]["mean"] == pytest.approx(1.0)
    assert told["raw_less"]["identity"]["phrase"]["mean"] == pytest.approx(0.0)


def test_seeds_are_averaged_metric_by_metric() -> None:
    """Differences of 1, 2 and 6 points: 3 on average, and t at two degrees of freedom is 4.3027 for their spread."""

    def seed(difference: float) -> list[dict[str, Any]]:
        less = {"identity": {"phrase": {"mean": difference}, "win": {"mean": 0.0}}}
        return [{"share": 0.25, "trained": {"raw": {}, "identity": {}}, "raw_less": less}]

    found = over_seeds([seed(0.01), seed(0.02), seed(0.06)])[0.25]["raw - identity"]
    half = 4.3027 * np.sqrt(7) / np.sqrt(3) / 100
    assert (found["phrase"].mean, found["phrase"].n) == (pytest.approx(0.03), 3)
    assert (found["phrase"].low, found["phrase"].high) == pytest.approx((0.03 - half, 0.03 + half), abs=1e-5)
    assert (found["win"].low, found["win"].high) == (0.0, 0.0)


def test_a_folder_of_other_settings_is_refused_and_more_shares_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctrl_corrupted, "study", lambda root, name, plan, seed: {"shares": list(plan.shares)})
    ctrl_corrupted.kept(tmp_path, "sandbox", Plan(shares=(0.25,)), 5)
    told = ctrl_corrupted.kept(tmp_path, "sandbox", Plan(shares=(0.5,)), 5)
    assert told == {"seed": 5, "shares": [0.5]}
    with pytest.raises(SystemExit, match="seed-5 holds a study with other settings: name another --out"):
        ctrl_corrupted.kept(tmp_path, "sandbox", Plan(steps=61), 5)


@pytest.mark.slow
def test_a_small_study_keeps_apart_what_must_be_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training from test prompts, the base model's draws from a policy's, labels from the judge's, pairs from pairs."""
    measured: list[Pair] = []

    def accuracy(some: Sequence[Pair], margins: Sequence[float]) -> Any:
        measured.extend(some)
        return pair_accuracy(some, margins)

    monkeypatch.setattr(ctrl_corrupted, "pair_accuracy", accuracy)
    plan = Plan(
        shares=(0.25,),
        recipes=("raw", "identity"),
        pair_prompts=40,
        epochs=1.0,
        prompts=4,
        anchors=8,
        steps=2,
        batch=16,
        generations=8,
        test_prompts=4,
        draws=4,
        tokens=24,
    )
    told = ctrl_corrupted.study(tmp_path, "sandbox", plan, 3)
    (share,) = told["shares"]
    assert list(share["trained"]) == ["raw", "identity"]
    assert "25 % corrupted" in capsys.readouterr().out
    assert measured
    assert all(held_out(pair.prompt, RewardSettings().held_out) for pair in measured)
    assert all("-train-" in pair.prompt.id for pair in measured)
    trained_on = {each.prompt_id for each in read_rollouts(tmp_path / "rollouts")}
    assert all("-train-" in name for name in trained_on)
    folders = [tmp_path / "base", *(tmp_path / "share-25" / recipe / "test" for recipe in plan.recipes)]
    for folder in folders:
        assert all("-test-" in each.prompt.id for each in read_answers(folder / POOL))
        assert len(list(folder.glob("scores-*neutral*"))) == 1, "the judge is blind to the phrase"
    base, *policies = (read_json(folder / POOL / "config.json")["seed"] for folder in folders)
    assert base not in policies
    assert len(set(policies)) == 1, "policies share their random numbers"
