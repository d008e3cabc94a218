"""What cannot be loaded is refused, each with its own words and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from inferalign.core.errors import ModelError
from inferalign.engines import table
from inferalign.engines.local import LocalEngine
from inferalign.engines.table import ModelOptions, load
from inferalign.engines.weights import weights_digest


@pytest.fixture
def folder(llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_dir, tmp_path / "model"))


def refused(folder: Path | str, words: str, **options: object) -> None:
    with pytest.raises(ModelError, match=words):
        load(str(folder), ModelOptions(**({"device": "cpu"} | options)))


def test_a_directory_loads_with_what_it_was_given(folder: Path) -> None:
    (folder.parent / "short.jinja").write_text("{{ messages[-1]['content'] }}")
    loaded = load(str(folder), ModelOptions(device="cpu", chat_template=folder.parent / "short.jinja"))
    assert isinstance(loaded.engine, LocalEngine)
    assert loaded.engine.name == str(folder)
    assert loaded.chat.describe() != load(str(folder), ModelOptions(device="cpu")).chat.describe()


def test_no_progress_bars(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(str(folder), ModelOptions(device="cpu"))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_no_such_directory(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "there is no model directory")
    refused("a/b/c", "hub id of the form owner/name")
    refused("gpt-x@127.0.0.1:8000/v1", "an endpoint is typed MODEL@http://HOST/v1")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


def test_config_that_is_cut_short(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])
    refused(folder, "cannot load the model")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "has no weights")


def test_pickle_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refused(folder, "only pickled weights .*convert")


def test_weights_cut_short(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused(folder, "cannot load the model")


def test_weights_of_another_model(folder: Path, gpt2_dir: Path) -> None:
    shutil.copy(gpt2_dir / "model.safetensors", folder)
    refused(folder, "lacks weights")


def test_no_tokenizer(folder: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    refused(folder, "has no tokenizer")


def test_a_tokenizer_larger_than_the_model(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 400, "content": "spare400"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(folder, "401 tokens and the model embeds 400")


def test_no_template_file(folder: Path) -> None:
    refused(folder, "cannot read the chat template", chat_template=folder / "none.jinja")
    (folder / "latin.jinja").write_bytes("r\xe9ponse".encode("latin-1"))
    refused(folder, "is not UTF-8 text", chat_template=folder / "latin.jinja")


def test_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(folder, "sees no GPU", device="cuda")


def test_the_sandbox_without_weights_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "files", lambda package: tmp_path)
    refused("sandbox", "inferalign sandbox train")


def test_a_hub_model_is_named_by_the_weights_of_its_revision(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights_digest("owner/name") == "hub"
    cache = tmp_path / "models--owner--name"
    shutil.copytree(llama_dir, cache / "snapshots" / "new")
    shutil.copytree(llama_dir, cache / "snapshots" / "old")
    (cache / "snapshots" / "old" / "model.safetensors").write_bytes(b"other")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("new")
    assert weights_digest("owner/name") == weights_digest(str(llama_dir))


def test_other_weights_have_another_digest(folder: Path, llama_dir: Path) -> None:
    def digest(model: Path) -> object:
        return load(str(model), ModelOptions(device="cpu")).engine.describe()["weights"]

    assert digest(folder) == digest(llama_dir)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert digest(folder) != digest(llama_dir)
