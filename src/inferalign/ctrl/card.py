"""What a training knows of the checkpoint that it made, as the card that travels with it (`winrate.card`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inferalign.core.files import read_json
from inferalign.core.stats import mean_interval
from inferalign.ctrl.anchors import AnchorSet
from inferalign.ctrl.reward_function import RewardFunction
from inferalign.ctrl.saving import MODEL
from inferalign.ctrl.settings import CtrlSettings
from inferalign.engines.table import SANDBOX, SANDBOX_CARD, is_sandbox
from inferalign.winrate.card import Card


def card_of(
    settings: CtrlSettings,
    anchors: AnchorSet | None,
    reward: Callable[..., Any],
    *,
    model: str,
    weights: str,
    beta: float,
    kls: Sequence[float],
) -> Card:
    """The card of a finished training, without win rates: `inferalign compare --cards` measures those.

    model: what training started from, `weights` its hash. beta: that of the last step. kls: the sequence KL that each
    of the last steps measured, in nats; their interval is over steps, whose draws are independent.
    """
    return Card(
        trained_for=settings.procedure,
        transform=settings.transform,
        beta=beta,
        anchors=None if anchors is None else anchors.card.k,
        anchors_digest=None if anchors is None else anchors.card.digest,
        base=base_name(model),
        base_weights=weights,
        reward=reward_name(reward),
        sandbox=is_sandbox(model),
        seed=settings.seed,
        kl=mean_interval(kls),
        max_new_tokens=settings.max_new_tokens,
    )


def base_name(model: str) -> str:
    """`sandbox`, a hub id, or a directory's own name: where it lay on this machine says nothing to others.

    `model`, which is what every training calls its result, has the training's name before it.
    """
    if not Path(model).is_dir():
        return SANDBOX if is_sandbox(model) else model
    folder = Path(model).resolve()
    if is_sandbox(model) and "start" not in read_json(folder / SANDBOX_CARD):
        return SANDBOX
    return f"{folder.parent.name}/{folder.name}" if folder.name == MODEL else folder.name


def reward_name(reward: Callable[..., Any]) -> str:
    """A calibrated reward's scorer, or a function's name."""
    if isinstance(reward, RewardFunction):
        return reward.name
    return str(getattr(reward, "__name__", type(reward).__name__))
