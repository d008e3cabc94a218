"""What is drawn of the starting model while a training runs, and when its mean says that the anchors are stale."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from inferalign.core.errors import RunError, ScoringError
from inferalign.ctrl.data import Rendered
from inferalign.ctrl.reference_draws import (
    DRAWS,
    MOST,
    PROMPTS,
    ReferenceDraws,
    check_half,
    check_judge,
    choose,
    up_to_end,
)
from inferalign.ctrl.reward import Calibrated, CalibratedReward, HeldAnchors
from inferalign.ctrl.reward_statistics import Seen
from inferalign.ctrl.scored import JUDGE, SCORED, Scored
from inferalign.ctrl.settings import CtrlSettings
from inferalign.theory.transforms import Identity


def rendered(n: int) -> list[Rendered]:
    return [Rendered(f"p{i}", (i,)) for i in range(n)]


@pytest.mark.parametrize(("prompts", "each"), [(3, MOST), (64, 32), (200, 10), (1000, 10)])
def test_draws_are_spread_evenly_over_prompts(prompts: int, each: int) -> None:
    counts = Counter(prompt.prompt_id for prompt in choose(rendered(prompts), 0, 50))
    assert set(counts.values()) == {each}
    assert len(counts) == min(prompts, PROMPTS)
    assert counts.total() >= DRAWS or each == MOST


def test_which_prompts_hangs_on_seed_and_step_alone() -> None:
    first = choose(rendered(1000), 0, 50)
    assert first == choose(rendered(1000), 0, 50)
    assert first != choose(rendered(1000), 0, 100)
    assert first != choose(rendered(1000), 1, 50)


def test_rows_end_at_their_first_end_token() -> None:
    assert up_to_end([5, 6, 2, 0, 0], [2, 9]) == (5, 6, 2)
    assert up_to_end([9, 2], [2, 9]) == (9,)
    assert up_to_end([5, 6], [2]) == (5, 6)


def seen(mean: float, n: int = 2000) -> Seen:
    return Seen(scored=n, rank_sum=mean * n)


@pytest.mark.parametrize(("mean", "standard_error"), [(0.519, 0.001), (0.481, 0.001), (0.539, 0.01), (0.461, 0.01)])
def test_the_bound_by_hand(mean: float, standard_error: float) -> None:
    """.02, or 4 standard errors where that is more."""
    check_half(seen(mean), standard_error, 50)
    with pytest.raises(RunError, match=r"before step 51 .* of 2000 fresh draws .* draw them again"):
        check_half(seen(0.5 + (mean - 0.5) * 1.06), standard_error, 50)


def test_a_judge_that_failed_on_all_is_no_mean() -> None:
    with pytest.raises(ScoringError, match="the judge failed on 7 of 7"):
        check_judge(Seen(judge=7), 0)


def test_a_judge_that_failed_on_most_is_named() -> None:
    """Half of 100 may be 50 by chance, give or take 4 standard errors of 5: up to 70."""
    check_judge(Seen(scored=30, judge=70), 0)
    with pytest.raises(ScoringError, match="before step 1 the judge failed on 71 of 100 fresh draws"):
        check_judge(Seen(scored=29, judge=71), 0)


class FailingReward:
    """Scores by the law of the anchors, and a judge that fails on a share."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.draw = share, np.random.default_rng(seed)
        ids = tuple(f"p{i}" for i in range(PROMPTS))
        self.calibration = CalibratedReward(
            HeldAnchors(ids, Scored.all_scored(self.draw.normal(size=(PROMPTS, 64)))), Identity()
        )

    async def calibrated(self, prompt_ids: list[str], drawn: list[tuple[int, ...]]) -> Calibrated:
        blame = np.where(self.draw.random(len(drawn)) < self.share, JUDGE, SCORED).astype(np.uint8)
        values = np.where(blame == SCORED, self.draw.normal(size=len(drawn)), 0.0)
        return self.calibration.calibrated(prompt_ids, Scored(values, blame))


@pytest.fixture
def trainer() -> Iterator[SimpleNamespace]:
    """As much of one as draws ask of it, before its first step, alone."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    model = torch.nn.Identity()
    model.generation_config = SimpleNamespace(bos_token_id=None, eos_token_id=2, pad_token_id=0)
    yield SimpleNamespace(
        step=0,
        async_loop=loop,
        ref_model=model,
        draws_by_engine=True,
        draw=lambda _model, prompts, _what, _most: [[1, 2]] * len(prompts),
        log_before_step=lambda _name, _value: None,
        accelerator=SimpleNamespace(
            process_index=0,
            num_processes=1,
            device="cpu",
            unwrap_model=lambda model: model,
            reduce=lambda counts, _how: counts,
        ),
    )
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def check(trainer: SimpleNamespace, reward: Any) -> None:
    ReferenceDraws(trainer, reward, rendered(PROMPTS), CtrlSettings()).on_step_begin()


def test_only_draws_that_were_judged_count(trainer: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = CalibratedReward.standard_error

    def spy(self: CalibratedReward, ids: list[str]) -> float:
        asked.extend(ids)
        return original(self, ids)

    monkeypatch.setattr(CalibratedReward, "standard_error", spy)
    check(trainer, FailingReward(0.5, seed=0))
    assert 900 < len(asked) < 1100
    assert max(Counter(asked).values()) <= DRAWS // PROMPTS


def test_a_judge_that_fails_is_not_blamed_on_the_anchors(trainer: SimpleNamespace) -> None:
    """A tenth of the draws has a rougher mean than all: 29 sound trainings in 150 were told to draw anchors again."""
    for seed in range(10):
        with pytest.raises(ScoringError, match=r"the judge failed on 1\d\d\d of 2000 fresh draws"):
            check(trainer, FailingReward(0.9, seed))
