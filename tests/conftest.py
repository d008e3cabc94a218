"""Fixtures that several folders use: the three random models, built once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.models import build_gpt2, build_llama, build_qwen
from tests.plain import QUESTION

# Property tests draw the same examples every time, and a busy machine is no failure.
settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")

SOURCE = Path(__file__).parents[1] / "src" / "inferalign"


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def qwen_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the README's and the examples' `sandbox` stands for: the shipped weights, or a random model in their place.

    The random one has room for the self-evaluation template, whose worked examples fill a thousand tokens and more.
    """
    if any((SOURCE / "sandbox" / "model").glob("*.safetensors")):
        return "sandbox"
    return str(build_llama(tmp_path_factory.mktemp("small"), context=8192))


@pytest.fixture(scope="session")
def short_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A self-evaluation template that quotes the user and fits the random models' contexts."""
    path = tmp_path_factory.mktemp("template") / "short.toml"
    path.write_text(QUESTION)
    return str(path)
