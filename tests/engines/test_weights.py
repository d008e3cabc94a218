"""The name of a model's weights: the same for the same, another one for any others, also where models are large."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from inferalign.engines import weights
from inferalign.engines.weights import weights_digest


@pytest.mark.parametrize("large", [False, True])
def test_a_digest_tells_models_of_one_shape_apart(
    tmp_path: Path, llama_dir: Path, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(weights, "HASHED_WHOLE", 0)
        monkeypatch.setattr(weights, "PART", 64)
    copy = Path(shutil.copytree(llama_dir, tmp_path / "copy"))
    found = weights_digest(str(llama_dir))
    assert found.startswith("parts-sha256:" if large else "sha256:")
    assert weights_digest(str(copy)) == found
    tensors = load_file(copy / "model.safetensors")
    for name in tensors:
        changed = {**tensors, name: tensors[name] * 1.01}
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        assert weights_digest(str(copy)) != found, name


def test_parts_of_a_small_tensor_lie_within_it(
    tmp_path: Path, llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With parts longer than any tensor, the parts are the tensors: every byte counts."""
    monkeypatch.setattr(weights, "HASHED_WHOLE", 0)
    monkeypatch.setattr(weights, "PART", 1 << 24)
    copy = Path(shutil.copytree(llama_dir, tmp_path / "copy"))
    raw = bytearray((copy / "model.safetensors").read_bytes())
    found = weights_digest(str(copy))
    for at in (-1, -len(raw) // 2):
        changed = bytearray(raw)
        changed[at] ^= 1
        (copy / "model.safetensors").write_bytes(bytes(changed))
        assert weights_digest(str(copy)) != found
