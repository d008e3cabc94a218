"""Weaker judges: trained on from given weights, resumably, with the same tokenizer; what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inferalign.cli.main import main
from inferalign.core.errors import InputError, ModelError, RunError
from inferalign.engines.weights import weights_digest
from inferalign.sandbox import curriculum, recipe, training
from inferalign.sandbox.situations.situation import WORLD_VERSION
from inferalign.sandbox.weak import RATE_SHARE, STEPS, weaker

TINY = recipe.Recipe(
    steps=2, batch_size=2, hidden=16, layers=2, first_layers=1, grow_at=0.5, heads=2, mlp=16, vocabulary=400,
    tokenizer_dialogues=200, checkpoint_every=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.train(tmp_path_factory.mktemp("start"), TINY)


class Killed(Exception):
    pass


def test_the_recipe_of_a_weaker_judge(start: Path) -> None:
    made = weaker(start, specificity=0.3)
    assert made == replace(
        TINY,
        steps=STEPS,
        specificity=0.3,
        suspicion=1.0,
        grow_at=0.0,
        again_at=1.0,
        sharpened=1.0,
        learning_rate=RATE_SHARE * TINY.learning_rate,
        other_rate=RATE_SHARE * TINY.other_rate,
    )
    assert weaker(start, specificity=0.3, steps=7, seed=4) == replace(made, steps=7, seed=4)


def test_it_goes_on_from_the_weights_and_resumes_to_the_same(start: Path, tmp_path: Path) -> None:
    chosen = replace(weaker(start, specificity=0.3, steps=5), learning_rate=1e-9, other_rate=1e-9)
    whole = load_file(training.train(tmp_path / "whole", chosen, start=start) / "model.safetensors")
    before = load_file(start / "model.safetensors")
    assert whole.keys() == before.keys()
    for name, tensor in before.items():  # steps of no size leave the weights where they began
        torch.testing.assert_close(whole[name], tensor, rtol=0.02, atol=1e-4)
    chosen = weaker(start, specificity=0.3, steps=5)

    def kill_at_4(step: int, facts: dict[str, float]) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        training.train(tmp_path / "killed", chosen, start=start, on_step=kill_at_4)
    resumed = load_file(training.train(tmp_path / "killed", chosen, start=start) / "model.safetensors")
    once = load_file(training.train(tmp_path / "once", chosen, start=start) / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in once.items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in once.items())
    assert (tmp_path / "once" / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    card = json.loads((tmp_path / "once" / training.CARD).read_text())
    assert card["version"] == "weakened"
    assert card["start"].startswith("sha256:")
    assert card["labels"] == curriculum.LABELS
    with pytest.raises(InputError, match="was made weaker itself: give --from the model that it was made from"):
        weaker(tmp_path / "once", specificity=0.2)


def test_a_checkpoint_of_another_start_is_refused(start: Path, tmp_path: Path) -> None:
    chosen = weaker(start, specificity=0.3, steps=4)
    training.train(tmp_path / "judge", chosen, start=start)
    (tmp_path / "judge" / training.CARD).unlink()
    other = training.train(tmp_path / "other", replace(TINY, seed=1))
    with pytest.raises(RunError, match="another training"):
        training.train(tmp_path / "judge", chosen, start=other)


def test_another_teacher_gives_other_verdicts_on_the_same_conversations(start: Path) -> None:
    tokenizer = recipe.train_tokenizer(TINY)
    encode = training._encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in (",", ".", "?"))
    pools = [training._pool(encode, ends, weaker(start, specificity=s), 0) for s in (0.1, 0.82)]
    # A suspicion takes a draw, so the questions differ, and with their lengths the order in a pool.
    by_conversation = [
        {tuple(x for x, s in zip(p.ids, p.segments, strict=True) if s == 0): p for batch in pool for p in batch}
        for pool in pools
    ]
    assert by_conversation[0].keys() == by_conversation[1].keys()
    pairs = [(low, by_conversation[1][said]) for said, low in by_conversation[0].items()]
    more = 0
    for low, high in pairs:
        for (at, holds), (also_at, also_holds) in zip(low.probes, high.probes, strict=True):
            assert at == also_at
            for letter, also in zip(holds[1:], also_holds[1:], strict=True):
                assert letter == -1 or also != -1, "who knows less reads no cause that who knows more does not"
            assert holds[0] >= also_holds[0], "who knows less suspects all that who knows more does"
            more += holds[0] > also_holds[0]
    assert more > 0.2 * sum(len(low.probes) for low, _ in pairs)


def test_a_teacher_that_lets_suspected_replies_pass_gives_other_labels_and_no_other_questions(start: Path) -> None:
    tokenizer = recipe.train_tokenizer(TINY)
    encode = training._encoder(tokenizer)
    ends = frozenset(encode(mark)[0] for mark in (",", ".", "?"))
    chosen = weaker(start, specificity=0.1)
    strict, lenient = (
        training._pool(encode, ends, replace(chosen, suspicion=suspicion), 0) for suspicion in (0.99, 0.0)
    )
    pairs = [(a, b) for these, those in zip(strict, lenient, strict=True) for a, b in zip(these, those, strict=True)]
    assert all((a.ids, a.segments, a.probes) == (b.ids, b.segments, b.probes) for a, b in pairs)
    assert sum(a.targets != b.targets for a, b in pairs) > 0.3 * len(pairs)


def test_a_start_that_lost_weights_is_named_and_trains_nothing(start: Path, tmp_path: Path) -> None:
    """transformers would fill in random numbers for what is missing, and only warn."""
    less = tmp_path / "less"
    shutil.copytree(start, less)
    kept = {name: t for name, t in load_file(start / "model.safetensors").items() if ".layers.1." not in name}
    save_file(kept, less / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"less lacks weights that its config\.json asks for"):
        training.train(tmp_path / "judge", weaker(start, specificity=0.3, steps=2), start=less)
    whole = (start / "model.safetensors").read_bytes()
    (less / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot load the weights in .*less"):
        training.train(tmp_path / "judge", weaker(start, specificity=0.3, steps=2), start=less)
    (less / "model.safetensors").rename(less / "else.safetensors")
    torch.save(load_file(start / "model.safetensors"), less / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot load the weights in .*less"):
        training.train(tmp_path / "judge", weaker(start, specificity=0.3, steps=2), start=less)
    assert not (tmp_path / "judge" / training.CARD).exists()


def test_what_cannot_be_trained_on_is_refused(start: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model of the sandbox"):
        weaker(tmp_path, specificity=0.3)
    with pytest.raises(InputError, match=r"specificity is 1\.5"):
        weaker(start, specificity=1.5)
    shutil.copytree(start, tmp_path / "odd")
    card = tmp_path / "odd" / training.CARD
    card.write_text('{"world": "1", "recipe": {}}')
    with pytest.raises(InputError, match="trained on world '1'"):
        weaker(tmp_path / "odd", specificity=0.3)
    for odd in ("[1]", f'{{"world": "{WORLD_VERSION}"}}', f'{{"world": "{WORLD_VERSION}", "recipe": {{"stepz": 1}}}}'):
        card.write_text(odd)
        with pytest.raises(InputError, match="is not what `inferalign sandbox train` writes"):
            weaker(tmp_path / "odd", specificity=0.3)
    (tmp_path / "odd" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        weaker(tmp_path / "odd", specificity=0.3)


def test_the_command(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["sandbox", "train", "--out", str(tmp_path / "judge")]
    assert main([*train, "--from", str(start), "--specificity", "0.3", "--steps", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 1
    assert json.loads((tmp_path / "judge" / training.CARD).read_text())["recipe"]["specificity"] == 0.3
    for half in (["--from", str(start)], ["--specificity", "0.3"]):
        assert main([*train, *half]) == 1
        assert "go together" in capsys.readouterr().err


def test_the_shipped_model_is_a_start_by_its_name(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("inferalign.engines.table.shipped_model", lambda: start)
    train = ["sandbox", "train", "--from", "sandbox", "--specificity", "0.3", "--steps", "1"]
    assert main([*train, "--out", str(tmp_path / "judge")]) == 0
    assert json.loads((tmp_path / "judge" / training.CARD).read_text())["start"] == weights_digest(str(start))
    capsys.readouterr()
