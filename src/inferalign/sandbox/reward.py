"""Trains a reward model on graded pairs: the head and the last layers of a policy, whose first layers stay frozen.

Every pair is split, encoded and ordered here; `reward_fit` has the optimisation. The result is a delta on the base,
measured as it is read back from disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from inferalign.core.errors import InputError, RunError
from inferalign.core.files import disk_errors
from inferalign.core.seeds import derive
from inferalign.core.stats import Estimate, clustered_proportion
from inferalign.core.types import Prompt, RoleUsage
from inferalign.engines.chat import ChatFormat
from inferalign.engines.checkpoint import require_no_model
from inferalign.engines.weights import check_folder, check_loaded, weights_digest
from inferalign.sandbox.pairs import Pair
from inferalign.sandbox.reward_fit import Encoded, OnStep, RewardSettings, batches, fit
from inferalign.scorers.reward_delta import CARD, DeltaCard, trained_names, write_delta
from inferalign.scorers.reward_model import RewardModel, RewardRows, load_reward, open_classifier


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """What a training made."""

    folder: Path
    accuracy: Estimate
    """Share of held-out pairs whose better reply gets the higher reward."""
    trained_on: int
    """Pairs."""
    held_out: tuple[Pair, ...]
    too_long: int
    """Pairs left out because a reply does not fit the model's context."""


def train_reward(
    base: Path,
    pairs: Iterable[Pair],
    out: Path,
    settings: RewardSettings,
    *,
    on_step: OnStep = lambda step, facts: None,
) -> TrainedReward:
    """Train on `pairs` into `out` (resuming from `out/checkpoint`) and write a delta on the model in `base`.

    The tensors are kept in the type of the base's weights, and accuracy is that of the model read back from `out`.
    torch's, numpy's and Python's global generators are seeded by TRL. Raises `RunError` when `out` holds a finished
    model, any other one, or a checkpoint of another training, `InputError` for too few pairs and for pairs of another
    tokenizer, `ModelError` for an unusable base.
    """
    if (out / CARD).exists():
        raise RunError(f"{out} holds a finished reward model: name another --out, or remove it to train it again")
    require_no_model(out, out / "checkpoint")
    check_folder(str(base))
    opened = _open(base, settings)
    config = opened.model.config.get_text_config()
    fitting, too_long = _fitting(pairs, opened.rows, config.max_position_embeddings)
    _check_ids(fitting, opened.model.get_input_embeddings().weight.shape[0])
    _check_texts(fitting, opened.rows.chat)
    testing = tuple(e.pair for e in fitting if held_out(e.pair.prompt, settings.held_out))
    training = [e for e in fitting if not held_out(e.pair.prompt, settings.held_out)]
    if len(training) < settings.batch_size or not testing:
        raise InputError(
            f"{len(training)} pairs to train on and {len(testing)} held out: expected at least {settings.batch_size} "
            "(a batch) and 1; give pairs of more prompts"
        )
    with disk_errors(out, "train into"):
        out.mkdir(parents=True, exist_ok=True)
    digest = weights_digest(str(base))
    fit(
        opened.model,
        opened.tokenizer,
        opened.names,
        training,
        settings,
        base=digest,
        checkpoint=out / "checkpoint",
        on_step=on_step,
    )
    training_facts = {"settings": asdict(settings), "pairs": len(training), "trl": version("trl")}
    card = DeltaCard(base=digest, tensors=opened.names, pad_token_id=config.pad_token_id, question=settings.question)
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    # Measured before the card says that the model is finished: who is killed while measuring can do it again.
    with disk_errors(out, "measure in"), TemporaryDirectory(dir=out, prefix=".measured.") as trial:
        write_delta(Path(trial), opened.model, opened.names, dtype=dtype, card=card)
        accuracy = pair_accuracy(testing, pair_margins(load_reward(Path(trial), bases=[str(base)]), testing))
    card = replace(card, training=training_facts | {"held_out": len(testing), "accuracy": asdict(accuracy)})
    write_delta(out, opened.model, opened.names, dtype=dtype, card=card)
    return TrainedReward(folder=out, accuracy=accuracy, trained_on=len(training), held_out=testing, too_long=too_long)


def held_out(prompt: Prompt, share: float) -> bool:
    """Whether a prompt is measured on. It depends on its turns alone: two judges are measured on the same, and what
    was asked twice, under two ids, is not trained on once and measured on once."""
    turns = (text for message in prompt.messages for text in (message.role, message.content))
    return derive(0, "held out", *turns) < share * 2**64


def planned_steps(pairs: Sequence[Pair], settings: RewardSettings) -> int:
    """How many steps a training on `pairs` takes; fewer when some do not fit the model's context."""
    kept = sum(not held_out(pair.prompt, settings.held_out) for pair in pairs)
    return len(batches(kept, settings)) // settings.batch_size if kept else 0


def pair_margins(reward: RewardModel, pairs: Sequence[Pair]) -> list[float]:
    """r(chosen) - r(rejected) of each pair; not finite where a reward is not."""
    rows = [reward.rows(pair.prompt, reply) for pair in pairs for reply in (pair.chosen, pair.rejected)]
    values = reward.values(rows, RoleUsage())
    return [values[i] - values[i + 1] for i in range(0, len(values), 2)]


def pair_accuracy(pairs: Sequence[Pair], margins: Sequence[float]) -> Estimate:
    """The share of pairs with a positive margin; Wilson's interval, where only prompts are independent."""
    groups: dict[str, list[bool]] = {}
    for pair, margin in zip(pairs, margins, strict=True):
        groups.setdefault(pair.prompt.id, []).append(margin > 0)
    return clustered_proportion(list(groups.values()))


class _Opened(NamedTuple):
    model: Any
    tokenizer: Any
    rows: RewardRows
    names: tuple[str, ...]
    """What is trained."""


def _open(base: Path, settings: RewardSettings) -> _Opened:
    """The base with a new, seeded head, in float32, ready to be trained."""
    model, tokenizer, info = open_classifier(str(base), dtype=torch.float32, new_head=True)
    names = trained_names(model, settings.layers)
    new = sorted(set(info["missing_keys"]) & set(names))
    check_loaded(str(base), model, tokenizer, {**info, "missing_keys": set(info["missing_keys"]) - set(new)})
    generator = torch.Generator().manual_seed(derive(settings.seed, "head") % 2**63)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in new:
            parameters[name].normal_(0.0, 0.02, generator=generator)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise InputError(f"the tokenizer in {base} has neither a padding nor an end token: give it one of them")
    # The model takes the last token that is not this one for the end of a row.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return _Opened(model, tokenizer, RewardRows(ChatFormat(tokenizer), question=settings.question), names)


def _fitting(pairs: Iterable[Pair], rows: RewardRows, context_length: int) -> tuple[list[Encoded], int]:
    """The pairs as token ids, and how many were left out as too long."""
    made = [Encoded(pair, rows(pair.prompt, pair.chosen), rows(pair.prompt, pair.rejected)) for pair in pairs]
    fitting = [e for e in made if max(len(e.chosen_ids), len(e.rejected_ids)) <= context_length]
    return fitting, len(made) - len(fitting)


def _check_ids(pairs: Iterable[Encoded], vocabulary: int) -> None:
    """Raises `InputError` for the first pair with a token that the base does not embed."""
    for pair, *rows in pairs:
        if odd := [token for row in rows for token in row if not 0 <= token < vocabulary]:
            raise InputError(
                f"the pair of prompt {pair.prompt.id!r} holds the token {odd[0]} and the base embeds {vocabulary}: the "
                "pairs are of a model with another tokenizer; make them from replies of the base"
            )


def _check_texts(pairs: Iterable[Encoded], chat: ChatFormat) -> None:
    """Raises `InputError` for the first reply whose tokens the base reads as another text than they were drawn as.

    Models of one recipe have vocabularies of one size, and each its own tokens: what is in range may say anything.
    """
    for pair, *_ in pairs:
        for reply in (pair.chosen, pair.rejected):
            if not (read := chat.decode(reply.token_ids)).startswith(reply.text):
                raise InputError(
                    f"a reply to prompt {pair.prompt.id!r} is {reply.text[:40]!r}, and the base reads its tokens as "
                    f"{read[:40]!r}: the pairs are of a model with another tokenizer; make them from the base's replies"
                )
