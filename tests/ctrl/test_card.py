"""What a training says of its checkpoint; that it is written and completed is tested with the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferalign.core.errors import InputError
from inferalign.ctrl.card import base_name, card_of, reward_name
from inferalign.ctrl.settings import CtrlSettings


def shorter(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


def test_a_card_without_anchors() -> None:
    settings = CtrlSettings(procedure="worst-of-n:4", transform="raw", seed=3)
    made = card_of(settings, None, shorter, model="org/model", weights="sha256:1", beta=0.2, kls=[0.4, 0.5, 0.6])
    assert (made.trained_for, made.transform, made.seed, made.beta) == ("worst-of-n:4", "raw", 3, 0.2)
    assert (made.anchors, made.anchors_digest, made.reward, made.sandbox) == (None, None, "shorter", False)
    assert (made.base, made.base_weights) == ("org/model", "sha256:1")
    assert made.kl.mean == pytest.approx(0.5)
    wide = 4.30265 * 0.1 / 3**0.5  # Student's quantile of two degrees times the standard error
    assert (made.kl.low, made.kl.high) == pytest.approx((0.5 - wide, 0.5 + wide), abs=1e-5)
    assert made.kl.n == 3


def test_a_single_step_has_no_interval() -> None:
    made = card_of(CtrlSettings(), None, shorter, model="m", weights="w", beta=0.2, kls=[0.4])
    assert (made.kl.mean, made.kl.low, made.kl.high) == (0.4, None, None)


def test_a_beta_that_is_no_weight_is_refused() -> None:
    with pytest.raises(InputError, match="beta 0"):
        card_of(CtrlSettings(), None, shorter, model="m", weights="w", beta=0.0, kls=[0.4])


def test_names(tmp_path: Path) -> None:
    """A directory is known by its own name: nobody else has this machine's paths."""
    assert base_name("sandbox") == "sandbox"
    assert base_name("org/model") == "org/model"
    (tmp_path / "mine").mkdir()
    assert base_name(f"{tmp_path}/mine/") == "mine"
    (tmp_path / "mine" / "sandbox.json").write_text("{}")
    assert base_name(str(tmp_path / "mine")) == "sandbox"

    class Reward:
        def __call__(self) -> None: ...

    assert reward_name(Reward()) == "Reward"
