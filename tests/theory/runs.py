"""Run folders of procedures whose selection is known, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inferalign.core.records import RunFolder
from inferalign.core.results import to_record
from inferalign.core.types import (
    Candidate,
    Completion,
    Determinism,
    Message,
    Prompt,
    Result,
    Score,
    StopReason,
    Unscored,
    Usage,
)


def config(seed: int, model: str = "base", scorer: str = "guide", procedure: str = "best-of-n:4") -> dict[str, Any]:
    return {
        "model": {"model": model},
        "chat": {},
        "procedure": {"procedure": procedure, "scorer": {"name": scorer}, "sampling": {}},
        "seed": seed,
    }


def write_run(path: Path, scores: np.ndarray, chosen: np.ndarray, settings: dict[str, Any]) -> Path:
    """A `generate` run: candidates' scores [P, N] (NaN: unscored), and which candidate [P] is the answer."""
    with RunFolder.open(path, settings, {}) as folder:
        for p, row in enumerate(scores):
            candidates = tuple(
                Candidate(
                    completion=Completion(token_ids=(1,), text="x", stop=StopReason.END),
                    score=Unscored("timeout", blame="judge") if np.isnan(value) else Score(float(value)),
                )
                for value in row
            )
            prompt = Prompt(id=f"p{p}", messages=(Message(role="user", content="?"),))
            result = Result(prompt=prompt, candidates=candidates, chosen=int(chosen[p]), usage=Usage(), seconds=0.0)
            folder.append(to_record(result, Determinism.EXACT))
    return path


def best_of(path: Path, n: int, prompts: int, seed: int, *, shift: float = 0.0, model: str = "base") -> Path:
    """A best-of-n run on a base model whose scores are normal around each prompt's own mean."""
    draws = np.random.default_rng(seed)
    scores = draws.normal(size=(prompts, n)) * (1 + shift) + np.arange(prompts)[:, None] + shift
    return write_run(path, scores, scores.argmax(axis=1), config(seed, model, procedure=f"best-of-n:{n}"))
