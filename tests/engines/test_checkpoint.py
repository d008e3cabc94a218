"""The state of a training: kept and put back exactly, with one optimiser or two, and refused where it is another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inferalign.core.errors import RunError
from inferalign.engines.checkpoint import FILE, load_state, save_state, saved_step

MADE_BY = {"seed": 1, "base": "sha256:0"}
State = tuple[dict[str, torch.nn.Parameter], list[torch.optim.Optimizer]]


def fresh() -> State:
    """Two parameters under optimisers that keep different things."""
    draw = torch.Generator().manual_seed(0)
    parameters = {name: torch.nn.Parameter(torch.randn(3, 2, generator=draw)) for name in ("layer.a", "b")}
    adam = torch.optim.AdamW([parameters["layer.a"]], lr=0.1)
    sgd = torch.optim.SGD([parameters["b"]], lr=0.1, momentum=0.9)
    return parameters, [adam, sgd]


def steps(state: State, first: int, last: int) -> None:
    for step in range(first, last):
        for parameter in state[0].values():
            parameter.grad = torch.full_like(parameter, float(step)) + parameter.detach()
        for optimiser in state[1]:
            optimiser.step()


def test_a_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, first, second = fresh(), fresh(), fresh()
    steps(whole, 0, 5)
    steps(first, 0, 3)
    assert saved_step(tmp_path, MADE_BY) == 0
    save_state(tmp_path, *first, 3, MADE_BY)
    assert saved_step(tmp_path, MADE_BY) == 3
    load_state(tmp_path, *second)
    steps(second, 3, 5)
    for name, parameter in whole[0].items():
        assert torch.equal(parameter, second[0][name])
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("other", [{"seed": 2, "base": "sha256:0"}, {"seed": 1}])
def test_the_state_of_another_training_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    state = fresh()
    steps(state, 0, 1)
    save_state(tmp_path, *state, 1, MADE_BY)
    with pytest.raises(RunError, match="another training"):
        saved_step(tmp_path, other)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged"):
        saved_step(tmp_path, MADE_BY)
    with pytest.raises(RunError, match="is damaged"):
        load_state(tmp_path, *fresh())


@pytest.mark.parametrize(
    "metadata", [None, {"step": "1"}, {"step": "x", "made_by": "{}"}, {"step": "1", "made_by": "{"}]
)
def test_tensors_that_are_no_checkpoint_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / FILE, metadata=metadata)
    with pytest.raises(RunError, match="is damaged, or no checkpoint"):
        saved_step(tmp_path, MADE_BY)


def test_a_state_that_lacks_a_weight_or_has_it_in_another_shape_is_refused(tmp_path: Path) -> None:
    parameters, optimisers = fresh()
    steps((parameters, optimisers), 0, 1)
    save_state(tmp_path, {"b": parameters["b"]}, optimisers, 1, MADE_BY)
    with pytest.raises(RunError, match=r"no layer\.a of the right shape"):
        load_state(tmp_path, *fresh())
    save_state(tmp_path, parameters, optimisers, 1, MADE_BY)
    wide, theirs = fresh()
    wide["b"] = torch.nn.Parameter(torch.zeros(3, 3))
    with pytest.raises(RunError, match="no b of the right shape"):
        load_state(tmp_path, wide, theirs)


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    for read in (lambda: saved_step(tmp_path, MADE_BY), lambda: load_state(tmp_path, *fresh())):
        with pytest.raises(RunError, match="is damaged"):
            read()


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = fresh()
    steps(state, 0, 1)
    with pytest.raises(RunError, match="keep a checkpoint in"):
        save_state(tmp_path / "file", *state, 1, MADE_BY)
