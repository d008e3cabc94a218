"""The doctor's findings, each with what makes it fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from inferalign.core.errors import ModelError
from inferalign.ctrl import doctor
from inferalign.ctrl.doctor import Finding, precision, template, threads, ties, versions


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def test_this_machine_is_well(llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "gradient", lambda samples: Finding("gradient", "ok", f"{samples}"))
    found = by_name(list(doctor.findings(str(llama_dir), samples=64)))
    assert {"torch", "threads", "precision", "ties", "template", "dropout", "gradient"} <= found.keys()
    assert [finding for finding in found.values() if finding.verdict == "failed"] == []
    assert found["template"].words == "answers end with <|end|>"
    assert found["gradient"].words == "64"


def test_the_gradient_finding_is_the_check() -> None:
    found = doctor.gradient(4096)
    assert "4,096 samples" in found.words
    assert found.words.startswith("trl 1.")
    assert "cosine 0.99" in found.words


def test_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["numpy>=2.0", "torch>=2.6; extra == 'local'", "trl<1.17,>=1.16; extra == 'train'", "ruff; extra == 'dev'"]
    monkeypatch.setattr(doctor, "requires", lambda name: asked)
    monkeypatch.setattr(doctor, "version", lambda name: "1.17.0" if name == "trl" else "2.13")
    found = by_name(list(versions()))
    assert found["trl"].verdict == "failed"
    assert found["trl"].words.startswith("1.17.0, and <1.17,>=1.16 is needed")
    assert found["torch"] == Finding("torch", "ok", "2.13")
    assert found.keys() == {"torch", "trl"}


def test_too_many_threads_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads().verdict == "ok"
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert threads().verdict == "warning"


def test_rounded_products_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision().verdict == "ok"
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self.bfloat16().to(torch.float32))
    assert precision().verdict == "warning"


def test_a_calibration_that_counts_ties_fully_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ties().verdict == "ok"
    monkeypatch.setattr(doctor, "mid_rank", lambda scores, anchors: scores * 0 + 0.6)
    assert ties().verdict == "failed"


def test_templates_that_do_not_end_and_rates_of_dropout(tmp_path: Path, llama_dir: Path, gpt2_dir: Path) -> None:
    assert by_name(list(template(str(gpt2_dir))))["template"].verdict == "warning"
    assert by_name(list(template(str(gpt2_dir))))["dropout"].verdict == "warning"
    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|user|>")
    tokenizer.save_pretrained(tmp_path)
    AutoConfig.from_pretrained(llama_dir).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert by_name(list(template(str(tmp_path))))["template"].verdict == "failed"
    with pytest.raises(ModelError):
        list(template(str(tmp_path / "none")))
