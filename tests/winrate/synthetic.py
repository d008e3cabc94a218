"""Pools without a model: answers are quantiles of the base model's scores, so that theory knows every win rate."""

from __future__ import annotations

import numpy as np

from inferalign.theory.grid import default_grid
from inferalign.theory.policies import Policy as Density
from inferalign.theory.policies import beta_for_kl, policy
from inferalign.theory.transforms import parse_transform
from inferalign.winrate.pools import Pool, Verdicts


def density(transform: str, kl: float) -> Density:
    shape = parse_transform(transform)
    assert shape.name != "optimal"
    return policy(shape, beta_for_kl(shape, kl, default_grid()), default_grid())


def verdicts(keys: np.ndarray) -> Verdicts:
    return Verdicts(keys, np.ones(keys.size, dtype=np.bool_))


def pool(selector: np.ndarray, judge: np.ndarray, log_ratios: np.ndarray) -> Pool:
    """From arrays [P, M]."""
    ids = [f"p{i:04}" for i in range(len(selector))]
    return Pool(
        selector={name: verdicts(row) for name, row in zip(ids, selector, strict=True)},
        judge={name: verdicts(row) for name, row in zip(ids, judge, strict=True)},
        log_ratios=dict(zip(ids, log_ratios, strict=True)),
    )


def base_pool(prompts: int, m: int, seed: int) -> Pool:
    u = np.random.default_rng(seed).random((prompts, m))
    return pool(u, u, np.zeros_like(u))


def trained_pool(found: Density, prompts: int, m: int, seed: int) -> Pool:
    """Draws from a density over quantiles by inverse CDF, each with its log ratio; selector and judge agree."""
    u = np.interp(np.random.default_rng(seed).random((prompts, m)), found.F, found.grid.u)
    return pool(u, u, np.interp(u, found.grid.u, found.log_f))


def copula_pool(prompts: int, m: int, rho: float, seed: int) -> Pool:
    """A base model's pool: judge and selector are normal with correlation rho."""
    draws = np.random.default_rng(seed)
    judge = draws.normal(size=(prompts, m))
    selector = rho * judge + np.sqrt(1 - rho**2) * draws.normal(size=(prompts, m))
    return pool(selector, judge, np.zeros_like(judge))
