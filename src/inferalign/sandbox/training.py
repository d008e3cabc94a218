"""Trains the sandbox model by its recipe in one resumable loop. CPU is enough.

Batch t is a fixed slice of the conversations of `curriculum`, so a resumed run sees what an uninterrupted one would.
Checkpoints are safetensors only (weights, optimiser moments) with a JSON card beside them.
"""

from __future__ import annotations

import ctypes
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from inferalign.core.errors import ModelError, RunError
from inferalign.core.files import write_json_atomic
from inferalign.core.seeds import derive
from inferalign.engines.checkpoint import load_state, require_no_model, save_state, saved_step
from inferalign.engines.table import SANDBOX_CARD
from inferalign.engines.weights import check_loaded, weights_digest
from inferalign.sandbox import curriculum
from inferalign.sandbox.curriculum import POOL
from inferalign.sandbox.recipe import Recipe, grown, new_model, train_tokenizer
from inferalign.sandbox.situations.situation import WORLD_VERSION

CARD = SANDBOX_CARD
"""Written last: its presence says that a training is finished."""
SECOND_PEAK = 0.4
"""Of the first peak: as high as the rates are where most is learned."""
SECONDS = 60.0
"""After so long a checkpoint is written too: where steps are slow, many are minutes of work."""
MODEL_VERSION = "sandbox-2"
"""The name that every number measured on the shipped weights cites."""


class Learner:
    """A model, a probe and their optimisers: Muon for the matrices of the layers, AdamW for everything else.

    The probe reads issue letters off the last hidden states wherever a clause ends. It makes the model come to its
    verdict while it reads, on several times as many texts as there is room to ask about, and is thrown away.
    """

    def __init__(self, recipe: Recipe, model: LlamaForCausalLM, probe: torch.nn.Linear | None = None) -> None:
        self.recipe = recipe
        self.model = model
        self.probe = probe or torch.nn.Linear(recipe.hidden, len(curriculum.PROBED))
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
        chosen = set(map(id, matrices))
        others = [p for p in model.parameters() if id(p) not in chosen]
        others += self.probe.parameters()
        muon = torch.optim.Muon(
            matrices, lr=recipe.learning_rate, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.optimisers = (muon, adam)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What a checkpoint keeps."""
        probe = {f"probe.{name}": p for name, p in self.probe.named_parameters()}
        return dict(self.model.named_parameters()) | probe

    def step(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, float]:
        factor = schedule(step, self.recipe.steps, self.recipe.again_at)
        for optimiser, peak in zip(self.optimisers, (self.recipe.learning_rate, self.recipe.other_rate), strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
        loss, facts = _losses(self.model, self.probe, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        return facts


def train(
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, facts: None,
) -> Path:
    """Train into `out` (resuming from `out/checkpoint` if it is there) and save an `AutoModelForCausalLM` directory.

    `start` is a model directory to go on from, with its tokenizer, in place of random weights: see `weak`.
    Raises `RunError` when `out` holds a finished model, one that was not made here, or a checkpoint of another recipe,
    start or world.
    """
    if (out / CARD).exists():
        raise RunError(f"{out} holds a finished model: name another --out, or remove it to train it again")
    state_dir = out / "checkpoint"
    require_no_model(out, state_dir)
    state_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = (
        train_tokenizer(recipe) if start is None else AutoTokenizer.from_pretrained(start, trust_remote_code=False)
    )
    encode = _encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in curriculum.CLAUSE_ENDS)
    digest = None if start is None else weights_digest(str(start))
    made_by = {"recipe": asdict(recipe), "start": digest, "world": WORLD_VERSION} | _labels(digest)
    first, learner = _resume(state_dir, recipe, tokenizer, made_by)
    if start is not None and not first:
        learner.model.load_state_dict(_whole(start, tokenizer).state_dict())
    began = saved = time.monotonic()
    seen = 0
    pool: list[list[curriculum.Packed]] = []
    learner.model.train()
    for step in range(first, recipe.steps):
        if step == recipe.grown_from and step:
            learner = Learner(recipe, grown(recipe, tokenizer, learner.model), learner.probe)
        if not pool:
            pool = _pool(encode, ends, recipe, step // POOL)[step % POOL :]
        batch = {k: torch.from_numpy(v) for k, v in curriculum.collate(pool.pop(0), tokenizer.pad_token_id).items()}
        facts = learner.step(batch, step)
        seen += batch["ids"].numel()
        on_step(step + 1, facts | {"tokens_per_second": seen / (time.monotonic() - began)})
        tidy = (step + 1) % recipe.checkpoint_every == 0
        if (tidy or time.monotonic() - saved > SECONDS) and step + 1 < recipe.steps:
            if tidy:
                _give_memory_back()
            save_state(state_dir, learner.parameters, learner.optimisers, step + 1, made_by)
            saved = time.monotonic()
    return _export(out, recipe, learner.model, tokenizer, digest)


def _labels(start: str | None) -> dict[str, int]:
    """What a weaker judge's card says of its labels. The labels of a first training are those of its world."""
    return {} if start is None else {"labels": curriculum.LABELS}


def _whole(start: Path, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The model in a folder, in float32. Raises `ModelError` where weights of it are missing or cut short."""
    try:
        model, info = LlamaForCausalLM.from_pretrained(
            start, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot load the weights in {start} ({error}): copy the directory again") from error
    check_loaded(str(start), model, tokenizer, info)
    return model


def _pool(
    encode: curriculum.Encoder, ends: frozenset[int], recipe: Recipe, index: int
) -> list[list[curriculum.Packed]]:
    """The batches of steps [index*POOL, (index+1)*POOL): sequences of like length together, in a seeded order."""
    size = POOL * recipe.batch_size
    teacher = (recipe.specificity, recipe.suspicion)
    made = [curriculum.build(encode, ends, recipe.seed, index * size + i, *teacher) for i in range(size)]
    made.sort(key=lambda packed: len(packed.ids))
    batches = [made[i : i + recipe.batch_size] for i in range(0, size, recipe.batch_size)]
    random.Random(derive(recipe.seed, "pool", index)).shuffle(batches)
    return batches


def _give_memory_back() -> None:
    """Rows of a new length every step leave holes in glibc's heap, which would grow to many gigabytes.

    Seldom, because every page that comes back has to be cleared again: at every eighth step a third of the speed.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def schedule(step: int, steps: int, again_at: float = 1.0) -> float:
    """Learning-rate factor in (0, 1]: warm-up over 2 %, cosine to 0.01; a second time, to 0.4, after `again_at`.

    Warm restarts are those of SGDR (arXiv 1608.03983); `again_at` is the first cycle's share of the steps.
    """
    first = round(again_at * steps)
    if step < first:
        return _cycle(step, first, 1.0)
    return _cycle(step - first, steps - first, SECOND_PEAK)


def _cycle(step: int, steps: int, peak: float) -> float:
    warmup = max(1, steps // 50)
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.01 + (peak - 0.01) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _encoder(tokenizer: PreTrainedTokenizerFast) -> curriculum.Encoder:
    backend = tokenizer.backend_tokenizer

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _losses(
    model: LlamaForCausalLM, probe: torch.nn.Linear, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross-entropy of the reply tokens plus that of the verdicts plus that of the probe's letters.

    Each is averaged over its own targets. The main fault counts as much as the other letters twice over.
    """
    targets, holds = batch["targets"], batch["probes"]
    wanted, probed = targets != -100, (holds >= 0).any(dim=-1)
    mask = torch.where(batch["mask"], 0.0, torch.finfo(torch.bfloat16).min).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(
            input_ids=batch["ids"], position_ids=batch["positions"], attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden[wanted])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[wanted], reduction="none")
    # The only target on a branch is its verdict; a branch's tokens sit later in the row than in their position.
    row = torch.arange(targets.shape[1])[None]
    in_reply = (row == batch["positions"])[wanted]
    speech, verdicts = losses[in_reply].mean(), losses[~in_reply].mean()
    main, rest = _probe_losses(probe(hidden[probed].float()), holds[probed])
    facts = {"speech": speech.item(), "verdict": verdicts.item(), "probe": main.item()}
    return speech + verdicts + main + 0.5 * rest, facts


def _probe_losses(logits: torch.Tensor, holds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the main fault, and of the other letters of the situations that have them (0 if none has)."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, holds.clamp(min=0).float(), reduction="none")
    known = (holds >= 0).float()
    main, rest = (each * known)[:, 0], (each * known)[:, 1:]
    return main.sum() / known[:, 0].sum(), rest.sum() / known[:, 1:].sum().clamp(min=1.0)


def _resume(
    folder: Path, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, made_by: Mapping[str, Any]
) -> tuple[int, Learner]:
    """The steps that are done and the learner as it was then; a new one if there is no checkpoint."""
    step = saved_step(folder, made_by)
    shallow = step <= recipe.grown_from and recipe.grown_from > 0
    learner = Learner(recipe, new_model(recipe, tokenizer, recipe.first_layers if shallow else recipe.layers))
    if step:
        load_state(folder, learner.parameters, learner.optimisers)
    return step, learner


def _export(
    out: Path, recipe: Recipe, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, start: str | None = None
) -> Path:
    with torch.no_grad():
        model.model.norm.weight.mul_(recipe.sharpened)
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    made = {"version": MODEL_VERSION} if start is None else {"version": "weakened", "start": start}
    card = made | {"world": WORLD_VERSION, "recipe": asdict(recipe)} | _labels(start)
    write_json_atomic(out / CARD, card)
    return out
