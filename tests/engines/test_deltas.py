"""A delta is the best cut of a difference into its bytes, belongs on one base, and runs as the merged model would."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inferalign.core.errors import InputError, ModelError
from inferalign.core.types import RoleUsage
from inferalign.engines import table
from inferalign.engines.deltas import CARD, TENSORS, add_delta, read_delta, truncated, write_delta
from inferalign.engines.local import load_local
from inferalign.engines.table import ModelOptions, is_sandbox
from inferalign.engines.weights import weights_digest
from inferalign.scorers import reward_delta
from inferalign.scorers.reward_delta import DeltaCard, trained_names
from inferalign.scorers.reward_model import load_beside, open_classifier


def trained(base: Path, out: Path, *, rank: int) -> Path:
    """A copy whose matrices differ by something of this rank, and whose vectors differ."""
    shutil.copytree(base, out)
    torch.manual_seed(7)
    tensors = load_file(out / "model.safetensors")
    for name, each in tensors.items():
        change = 0.05 * torch.randn(each.shape)
        if each.ndim == 2:
            change = 0.05 * torch.randn(each.shape[0], rank) @ torch.randn(rank, each.shape[1])
        tensors[name] = each + change
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def merged(base: Path, delta: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base)
    add_delta(read_delta(delta), model, weights_digest(str(base)))
    return dict(model.named_parameters())


def test_a_difference_of_low_rank_comes_back_whole(tmp_path: Path, llama_dir: Path) -> None:
    after = trained(llama_dir, tmp_path / "trained", rank=2)
    write_delta(llama_dir, after, tmp_path / "delta", most_bytes=1_000_000, facts={"kl": 0.5})
    wanted = dict(AutoModelForCausalLM.from_pretrained(after).named_parameters())
    for name, parameter in merged(llama_dir, tmp_path / "delta").items():
        assert torch.allclose(parameter, wanted[name], atol=2e-3), name
    assert read_delta(tmp_path / "delta").facts == {"kl": 0.5}


def test_the_scale_multiplies_the_difference(tmp_path: Path, llama_dir: Path) -> None:
    after = trained(llama_dir, tmp_path / "trained", rank=2)
    base = dict(AutoModelForCausalLM.from_pretrained(llama_dir).named_parameters())
    for scale in (1.0, 0.5):
        write_delta(llama_dir, after, tmp_path / f"{scale}", most_bytes=1_000_000, scale=scale)
    one, half = (merged(llama_dir, tmp_path / f"{scale}") for scale in (1.0, 0.5))
    assert all(torch.allclose(2 * (half[name] - base[name]), one[name] - base[name], atol=4e-3) for name in base)


def test_a_hand_made_cut_keeps_what_saves_most_a_number() -> None:
    """3 x 3 costs 6 numbers a component, 2 x 2 costs 4: squares 36/6 = 6, 16/4 = 4, 9/6 = 1.5 and 1/4 in this order."""
    big, small = torch.diag(torch.tensor([6.0, 3.0, 0.0])), torch.diag(torch.tensor([4.0, 1.0]))
    vector = torch.tensor([0.5])
    cut = truncated({"big": big, "small": small, "vector": vector}, most_bytes=2 * (1 + 6 + 4 + 4))
    assert cut["vector"].tolist() == [0.5]
    assert [cut["big.up"].shape[1], cut["small.up"].shape[1]] == [1, 2], "no room for 3 of big: small's 1 still fits"
    assert torch.allclose(
        cut["big.up"].float() @ cut["big.down"].float(), torch.diag(torch.tensor([6.0, 0, 0])), atol=1e-2
    )
    assert torch.allclose(cut["small.up"].float() @ cut["small.down"].float(), small, atol=1e-2)


def test_more_bytes_leave_less_error_and_none_are_exceeded() -> None:
    torch.manual_seed(1)
    difference = {"a": torch.randn(20, 30), "b": 0.1 * torch.randn(12, 8), "v": torch.randn(5)}
    errors = []
    for most in (10, 200, 600, 1200, 4000):
        cut = truncated(difference, most)
        assert sum(each.numel() * 2 for each in cut.values()) <= most
        kept = {n: (cut[n + ".up"] @ cut[n + ".down"]).float() if n + ".up" in cut else 0.0 for n in ("a", "b")}
        errors.append(sum(float(((difference[name] - kept[name]) ** 2).sum()) for name in kept))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2
    with pytest.raises(InputError, match="vectors alone"):
        truncated(difference, 8)


def test_a_loaded_delta_answers_as_the_merged_model(tmp_path: Path, llama_dir: Path) -> None:
    after = trained(llama_dir, tmp_path / "trained", rank=2)
    write_delta(llama_dir, after, tmp_path / "delta", most_bytes=1_000_000)
    options = ModelOptions(device="cpu")
    name = "sandbox:trained"
    ours = load_local(str(llama_dir), options, delta=tmp_path / "delta", called=name)
    base, whole = load_local(str(llama_dir), options), load_local(str(after), options)
    labels = list(range(20))

    def seen(model: table.LoadedModel) -> torch.Tensor:
        (found,) = asyncio.run(model.engine.label_logprobs([(1, 2, 3)], labels, RoleUsage()))
        return torch.tensor(found.logprobs)

    assert torch.allclose(seen(ours), seen(whole), atol=0.02)
    assert not torch.allclose(seen(ours), seen(base), atol=0.1)
    assert ours.engine.name == name
    weights = {model.engine.describe()["weights"] for model in (ours, base, whole)}
    assert len(weights) == 3, "its records name other weights than the base's"


def test_a_reward_model_on_the_base_scores_a_policy_trained_from_it(tmp_path: Path, llama_dir: Path) -> None:
    """As `--model sandbox:NAME --scorer reward` has it: the policy's name is no directory, and no hub id either."""
    after = trained(llama_dir, tmp_path / "trained", rank=1)
    write_delta(llama_dir, after, tmp_path / "delta", most_bytes=1_000_000)
    reward, _, _ = open_classifier(str(llama_dir), dtype=torch.float32, new_head=True)
    names = trained_names(reward, 1)
    card = DeltaCard(base=weights_digest(str(llama_dir)), tensors=names, pad_token_id=0)
    reward_delta.write_delta(tmp_path / "reward", reward, names, dtype=torch.float32, card=card)
    options = ModelOptions(device="cpu")
    policy = load_local(str(llama_dir), options, delta=tmp_path / "delta", called="sandbox:trained")
    scorer = load_beside(tmp_path / "reward", policy.engine, policy.chat, llama_dir)
    assert scorer.rows.shares_tokenizer
    with pytest.raises(ModelError, match="belongs on a base"):
        load_beside(tmp_path / "reward", policy.engine, policy.chat, after)


def test_another_base_and_damage_are_refused(tmp_path: Path, llama_dir: Path) -> None:
    after = trained(llama_dir, tmp_path / "trained", rank=1)
    delta = tmp_path / "delta"
    write_delta(llama_dir, after, delta, most_bytes=1_000_000)
    with pytest.raises(ModelError, match="belongs on a base"):
        load_local(str(after), ModelOptions(device="cpu"), delta=delta)
    card = json.loads((delta / CARD).read_text())
    (delta / CARD).write_text(json.dumps({"facts": card["facts"]}))
    with pytest.raises(ModelError, match="which base"):
        read_delta(delta)
    (delta / CARD).write_text(json.dumps(card))
    (delta / TENSORS).write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot read"):
        read_delta(delta)
    with pytest.raises(ModelError, match=CARD):
        read_delta(tmp_path)


def test_factors_that_make_no_product_are_refused(tmp_path: Path, llama_dir: Path) -> None:
    after = trained(llama_dir, tmp_path / "trained", rank=1)
    delta = tmp_path / "delta"
    write_delta(llama_dir, after, delta, most_bytes=1_000_000)
    whole = load_file(delta / TENSORS)
    up = next(name for name in whole if name.endswith(".up"))
    down = up.removesuffix(".up") + ".down"
    misfit = torch.cat([whole[down], whole[down]])
    for damaged in (
        {name: each for name, each in whole.items() if name != down},
        {name: each for name, each in whole.items() if name != up},
        whole | {down: misfit},
        whole | {down: whole[down].flatten()},
    ):
        save_file(damaged, delta / TENSORS)
        with pytest.raises(ModelError, match="lacks a factor of"):
            read_delta(delta)


def test_other_tensors_are_no_training_of_the_base(tmp_path: Path, llama_dir: Path, gpt2_dir: Path) -> None:
    with pytest.raises(ModelError, match="other tensors"):
        write_delta(llama_dir, gpt2_dir, tmp_path / "delta", most_bytes=1_000_000)


def test_names_after_the_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deltas" / "best-of-4").mkdir(parents=True)
    (tmp_path / "deltas" / "best-of-4" / "delta.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(table, "_sandbox", lambda part: tmp_path / part)
    asked: list[object] = []
    monkeypatch.setattr(table, "load_object", lambda target: lambda *given, **more: asked.append((given, more)))
    assert table.shipped_deltas() == ["best-of-4"]
    table.load("sandbox:best-of-4", ModelOptions())
    table.load(f"sandbox:{tmp_path / 'deltas' / 'best-of-4'}", ModelOptions())
    table.load("sandbox", ModelOptions())
    folder = tmp_path / "deltas" / "best-of-4"
    assert [more for _, more in asked] == [  # type: ignore[misc]
        {"delta": folder, "called": "sandbox:best-of-4"},
        {"delta": folder, "called": f"sandbox:{folder}"},
        {},
    ]
    with pytest.raises(ModelError, match=r"Did you mean 'best-of-4'\?.*sandbox:best-of-4"):
        table.load("sandbox:best-of-5", ModelOptions())
    assert is_sandbox("sandbox:best-of-4")
    assert not is_sandbox("sandboxes")
