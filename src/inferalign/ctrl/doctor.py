"""What must hold on this machine before a training means what it should, each as a finding in words.

Every check measures: versions are compared with what this package was tested with, arithmetic with float64, ties with
their known mean, and TRL's gradient with the exact one (`checks`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from packaging.requirements import Requirement
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from inferalign.core.errors import ModelError
from inferalign.ctrl.checks import LARGEST_DEVIATION, LEAST_COSINE, SAMPLES, gradient_agreement
from inferalign.engines.chat import ChatFormat
from inferalign.engines.table import SANDBOX, shipped_model
from inferalign.engines.weights import check_folder
from inferalign.theory.calibration import mid_rank

EXTRAS = ("local", "train")
COARSE = 1e-5
"""A relative error of float32 products above it: the device rounds their inputs (TF32 keeps 10 bits)."""


@dataclass(frozen=True)
class Finding:
    """One check. `warning` is for what slows down or surprises, `failed` for what makes results wrong."""

    name: str
    verdict: Literal["ok", "warning", "failed"]
    words: str


def findings(model: str | None = None, *, samples: int = SAMPLES) -> Iterator[Finding]:
    """Every check, one after the other; those of a model directory if one is given. Raises `ModelError` for a bad one.

    samples: draws of the gradient check.
    """
    yield from versions()
    yield threads()
    yield precision()
    yield ties()
    if model is not None:
        yield from template(model)
    yield gradient(samples)


def versions() -> Iterator[Finding]:
    """What the extras ask for against what is installed."""
    try:
        wanted = requires("inferalign") or ()
    except PackageNotFoundError:
        yield Finding("inferalign", "warning", "not installed as a package, so its versions are unknown: pip install .")
        return
    for requirement in map(Requirement, wanted):
        extra = next((e for e in EXTRAS if requirement.marker and requirement.marker.evaluate({"extra": e})), None)
        if extra is None:
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            words = f"not installed: pip install 'inferalign[{extra}]'"
            yield Finding(requirement.name, "failed", words)
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        words = found if fits else f"{found}, and {requirement.specifier} is needed: pip install '{requirement}'"
        yield Finding(requirement.name, "ok" if fits else "failed", words.partition(";")[0])


def threads() -> Finding:
    """Threads that torch uses for one operation, against the processor's cores."""
    found, cores = torch.get_num_threads(), os.cpu_count() or 1
    words = f"{found} for {cores} cores"
    if found > cores:
        return Finding("threads", "warning", f"{words}: they wait for each other; set OMP_NUM_THREADS={cores} or less")
    return Finding("threads", "ok", words)


def precision() -> Finding:
    """The error of a float32 product against float64, on the device that training would use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=draw, dtype=torch.float64) for _ in range(2))
    found = (a.float().to(device) @ b.float().to(device)).double().cpu()
    error = float((found - a @ b).abs().max() / (a @ b).abs().max())
    words = f"{device}, float32 products to {error:.0e}"
    if error > COARSE:
        advice = "call torch.set_float32_matmul_precision('highest'), or the first step may be refused"
        return Finding("precision", "warning", f"{words}: {advice}")
    return Finding("precision", "ok", words)


def ties() -> Finding:
    """The mean calibrated reward of the anchors themselves: 1/2 for any reward, also one with three levels or one."""
    levels = np.random.Generator(np.random.Philox(key=0)).integers(0, 3, size=(8, 50)).astype(np.float64)
    means = [float(mid_rank(scores, list(scores)).mean()) for scores in (levels, np.zeros((1, 50)))]
    right = all(abs(mean - 0.5) < 1e-12 for mean in means)
    words = f"mean calibrated reward {means[0]:.3f} at three levels, {means[1]:.3f} at one"
    return Finding("ties", "ok" if right else "failed", words)


def gradient(samples: int) -> Finding:
    """TRL's gradient against that of E[Phi(C)] - beta KL."""
    found = gradient_agreement(samples=samples)
    agreement = f"cosine {found.cosine:.5f}, norm ratio {found.ratio:.4f}"
    words = f"trl {version('trl')}: {agreement} ({samples:,} samples, KL {found.kl:.2f})"
    if found.holds:
        return Finding("gradient", "ok", words)
    if samples < SAMPLES:
        return Finding("gradient", "warning", f"{words}: too few samples to tell; give --samples {SAMPLES}")
    needed = f"at least {LEAST_COSINE} and within {LARGEST_DEVIATION} of 1 are needed"
    advice = "install the trl version that this package asks for"
    return Finding("gradient", "failed", f"{words}: {needed}; {advice}")


def template(model: str) -> Iterator[Finding]:
    """How a model directory writes chats: whether answers end, and what else of its files would surprise a training."""
    tokenizer, config, named = _read(str(shipped_model()) if model == SANDBOX else model)
    ends = config.eos_token_id if named is None else named.eos_token_id
    chat = ChatFormat(tokenizer, end_ids=ends if isinstance(ends, list) else [] if ends is None else [ends])
    if chat.stop_strings:
        yield Finding("template", "warning", "none: `train` needs one (--chat-template FILE)")
    elif not chat.end_ids & set(chat.turn_end_ids):
        words = "an assistant's turn ends without a token that ends answers, so answers run on: name it as eos_token_id"
        yield Finding("template", "failed", f"{words} in generation_config.json")
    else:
        names = tokenizer.convert_ids_to_tokens(sorted(chat.end_ids))
        yield Finding("template", "ok", f"answers end with {' or '.join(names)}")
    rates = {key: value for key, value in config.to_dict().items() if "drop" in key and isinstance(value, float)}
    on = ", ".join(f"{key} {value:g}" for key, value in rates.items() if value)
    if on:
        yield Finding("dropout", "warning", f"{on}: layers are switched off in training, other rates are refused")
    else:
        yield Finding("dropout", "ok", "off")


def _read(model: str) -> tuple[Any, Any, GenerationConfig | None]:
    """Tokenizer, configuration and generation settings of a directory or hub id. Raises `ModelError`."""
    check_folder(model)
    try:
        tokenizer, config = AutoTokenizer.from_pretrained(model), AutoConfig.from_pretrained(model)
        named = GenerationConfig.from_pretrained(model) if (Path(model) / "generation_config.json").is_file() else None
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot read the model {model!r}: {str(error).splitlines()[0]}") from error
    return tokenizer, config, named
