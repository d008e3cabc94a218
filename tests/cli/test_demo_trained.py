"""The demo's end: runs read as pools, shown with the win rate, and one line where nothing is shipped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from inferalign import api
from inferalign.cli import demo_trained
from inferalign.cli.demo_trained import DRAWS, IDENTITY, SHOWN, TRAINED, read_pool, show_trained
from inferalign.core.types import RoleUsage, Score, Unscored
from inferalign.procedures.base import Sampling
from inferalign.sandbox.quality import QualityScorer
from inferalign.sandbox.world import prompts
from tests.plain import QUESTION
from tests.winrate.synthetic import base_pool, density, trained_pool


def test_a_run_is_read_with_the_guide_as_selector_and_the_quality_as_judge(tmp_path: Path, llama_dir: Path) -> None:
    asked = prompts("benign", 2, 0)
    run = tmp_path / "run"
    template = tmp_path / "question.toml"
    template.write_text(QUESTION)
    results = api.generate(
        str(llama_dir), DRAWS, asked, seed=1, scorer=str(template), run=run, sampling=Sampling(max_new_tokens=4)
    )
    found = read_pool(run)
    assert found.judge.keys() == {prompt.id for prompt in asked}
    for result in results:
        scores = [each.score for each in result.candidates]
        assert found.selector[result.prompt.id].keys.tolist() == [s.value for s in scores if isinstance(s, Score)]
        judged = asyncio.run(
            QualityScorer().score(result.prompt, [each.completion for each in result.candidates], RoleUsage())
        )
        assert all(isinstance(each, Unscored) for each in judged), "a random model does not speak the sandbox's words"
        assert np.all(np.isneginf(found.judge[result.prompt.id].keys))
        assert found.log_ratios[result.prompt.id].tolist() == [0.0] * 8


def test_the_end_of_the_demo_says_which_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs replaced by draws that theory knows: exp:10 gains 7.2 points over identity under best-of-4 at KL .5."""
    pools = {
        "sandbox": base_pool(200, 8, 1),
        IDENTITY: trained_pool(density("identity", 0.5), 200, 8, 2),
        TRAINED: trained_pool(density("exp:10", 0.5), 200, 8, 3),
    }
    seeds: dict[str, int] = {}

    def drawn(folder: Path, model: str, seed: int, total: int) -> object:
        seeds[model] = seed
        assert (folder / "prompts.jsonl").exists()
        assert total == 16
        return pools[model]

    monkeypatch.setattr(demo_trained, "_drawn", drawn)
    monkeypatch.setattr("inferalign.engines.table.shipped_deltas", lambda: ["best-of-4", "identity"])
    monkeypatch.setattr(demo_trained, "_facts", lambda model: {"trained_for": "x", "transform": "y", "kl": 0.5})
    told = show_trained(tmp_path, 3, 4)
    assert told is not None
    assert told["procedure"] == SHOWN
    assert told["gain"]["low"] < 0.0717 < told["gain"]["high"]
    assert told["policies"][TRAINED]["win_rate"]["mean"] > told["policies"][IDENTITY]["win_rate"]["mean"] > 0.7
    assert seeds == {"sandbox": 3, IDENTITY: 4, TRAINED: 4}, "the base's draws are independent of the policies'"
    assert "best-of-4 less identity" in capsys.readouterr().out


def test_without_shipped_policies_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inferalign.engines.table.shipped_deltas", lambda: ["identity"])
    assert show_trained(tmp_path, 0, 2) is None
    assert "sandbox:best-of-4" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
